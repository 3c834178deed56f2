"use strict";
// Starts teaching with the corrections, and follows it.

const BETWEEN_QUESTIONS = 1000; // milliseconds

const panel = document.querySelector(".teach");
const teachButton = document.getElementById("teach");
const lesson = document.getElementById("lesson");
const announcement = document.getElementById("said");

function showCorrections(total) {
  teachButton.textContent = `Teach with ${total.toLocaleString("en")} correction${total === 1 ? "" : "s"}`;
  teachButton.disabled = total === 0;
}

function showTeaching(status) {
  panel.dataset.state = status.state;
  document.getElementById("taught").hidden = !status.in_use;
  // Not disabled: the keyboard focus would be lost.
  teachButton.setAttribute("aria-disabled", String(status.state === "teaching"));
  lesson.textContent = status.state === "failed" ? `Not taught: ${status.said}` : status.said;
}

async function follow() {
  try {
    const status = await ask("api/teaching");
    showTeaching(status);
    if (status.state !== "teaching") {
      announcement.textContent = status.state === "taught" ? "The lesson has ended." : "The lesson has failed.";
      return;
    }
  } catch (error) {
    lesson.textContent = `Progress unknown: ${error.message}`;
  }
  setTimeout(follow, BETWEEN_QUESTIONS);
}

teachButton?.addEventListener("click", async () => {
  if (panel.dataset.state === "teaching") return;
  panel.dataset.state = "teaching"; // so that a second click does nothing
  announcement.textContent = "The lesson starts.";
  try {
    const request = { method: "POST", headers: { "Content-Type": "application/json" }, body: "{}" };
    showTeaching(await ask("api/teaching", request));
    follow();
  } catch (error) {
    announcement.textContent = "";
    showTeaching({ state: "failed", said: error.message });
  }
});

if (panel?.dataset.state === "teaching") {
  teachButton.setAttribute("aria-disabled", "true");
  follow();
}
