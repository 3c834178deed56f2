"use strict";
// Review by keyboard: Enter saves the text on the server.

const cards = [...document.querySelectorAll(".card")];
const said = document.getElementById("said");
const total = document.getElementById("total");

function show(card) {
  const { reading, correction } = card.dataset;
  const word = card.querySelector(".verdict-word");
  card.classList.toggle("confirmed", correction === reading);
  card.classList.toggle("corrected", correction !== "" && correction !== reading);
  word.textContent = correction === "" ? "" : correction === reading ? "confirmed" : "corrected";
  card.querySelector(".forget").hidden = correction === "";
}

async function keep(card, text) {
  const entry = card.querySelector("input");
  const address = `api/corrections/${card.dataset.key}`;
  const request =
    text === ""
      ? { method: "DELETE" }
      : { method: "PUT", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ text }) };
  try {
    const answer = await ask(address, request);
    card.dataset.correction = answer.text ?? "";
    total.textContent = answer.total.toLocaleString("en");
    showCorrections(answer.total);
    said.textContent = answer.text === null ? `Correction of ${answer.reading} removed.` : `Saved: ${answer.text}.`;
    entry.removeAttribute("aria-invalid");
    show(card);
    return true;
  } catch (error) {
    said.textContent = `Not saved: ${error.message}`;
    entry.setAttribute("aria-invalid", "true");
    entry.focus();
    return false;
  }
}

function goTo(index, inText) {
  const card = cards[Math.max(0, index)];
  if (!card) {
    document.querySelector(".pager [rel=next]")?.focus();
    return;
  }
  const target = inText ? card.querySelector("input") : card;
  target.focus();
  if (inText) target.select();
  card.scrollIntoView({ block: "nearest" });
}

function reset(entry) {
  const { correction, reading } = entry.closest(".card").dataset;
  entry.value = correction === "" ? reading : correction;
}

document.addEventListener("keydown", async (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const focused = document.activeElement;
  const card = focused.closest(".card");
  const inText = focused.matches(".card input");
  // Leave keys alone that the focused element uses itself.
  if (!inText && focused.matches("input, select")) return;
  if (focused.matches("a, button, summary") && !"jk".includes(event.key)) return;
  const index = card ? cards.indexOf(card) : -1;
  if (event.key === "ArrowDown" || (event.key === "j" && !inText)) goTo(index + 1, inText);
  else if (event.key === "ArrowUp" || (event.key === "k" && !inText)) goTo(index - 1, inText);
  else if (event.key === "Enter" && inText) {
    event.preventDefault();
    goTo(index + 1, true);
    await keep(card, focused.value);
    return;
  } else if (event.key === "Enter" && card) goTo(index, true);
  else if (event.key === "Escape" && inText) {
    reset(focused);
    card.focus();
  } else return;
  event.preventDefault();
});

for (const card of cards) {
  show(card);
  card.querySelector(".forget").addEventListener("click", async () => {
    if (await keep(card, "")) {
      reset(card.querySelector("input"));
      card.focus();
    }
  });
}
