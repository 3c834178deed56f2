"use strict";
// Sends images to the server one at a time, and shows each reply as it arrives.

const form = document.getElementById("drop");
const picker = document.getElementById("files");
const said = document.getElementById("said");
const family = document.getElementById("family"); // missing if a run gives alphabet and length
const answers = document.getElementById("answers");
const MOST_BYTES = Number(form.dataset.mostBytes); // the server refuses larger files with the same message

const waiting = [];
let working = false;

function take(files) {
  const images = [...files];
  if (!images.length) return;
  waiting.push(...images);
  if (!working) readAll();
}

async function readAll() {
  working = true;
  let read = 0;
  let refused = 0;
  while (waiting.length) {
    said.textContent = `Reading ${waiting[0].name || "the image"} …`;
    const file = waiting.shift();
    if (await readOne(file)) read += 1;
    else refused += 1;
  }
  const latest = answers.firstElementChild;
  const words = read === 1 ? [`Read: ${latest.dataset.text || "1 image"}.`] : [`${read} images read.`];
  if (refused) words.push(`${refused} could not be read.`);
  said.textContent = read || !refused ? words.join(" ") : words.at(-1);
  working = false;
}

async function readOne(file) {
  try {
    if (file.size > MOST_BYTES) throw new Error(`expected at most ${MOST_BYTES} bytes, got ${file.size}`);
    const body = new FormData();
    body.append("files", file, file.name || "pasted image");
    const query = new URLSearchParams({ explain: true });
    for (const [key, value] of family ? new FormData(family) : []) if (value.trim()) query.append(key, value.trim());
    const answer = await ask(`api/read?${query}`, { method: "POST", body });
    showReading(file, answer.readings[0]);
    return true;
  } catch (error) {
    showRefusal(file, error.message);
    return false;
  }
}

function copyOf(template) {
  return document.getElementById(template).content.firstElementChild.cloneNode(true);
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

function showReading(file, reading) {
  const item = copyOf("answer");
  item.dataset.text = reading.text;
  const given = item.querySelector(".given");
  given.src = URL.createObjectURL(file);
  given.alt = `image read as ${reading.text}`;
  item.querySelector(".file").textContent = reading.name;
  item.querySelector(".said-text .text").textContent = reading.text;
  const generalist = form.dataset.learns ? "read by the generalist, before learning" : "read by the generalist";
  const recognizer = `read by the run's recognizer${reading.taught ? ` ${reading.taught}` : ""}`;
  const by = ` · ${reading.reader === "generalist" ? generalist : recognizer}`;
  item.querySelector(".said-text .share").textContent = `${percent(reading.confidence)} confidence${by}`;
  const saw = item.querySelector(".saw");
  if (reading.input) {
    saw.querySelector("img").src = reading.input;
    saw.querySelector("img").alt = "input of the network: the ink of the image";
  } else {
    saw.remove(); // the generalist gives no pictures
  }
  const characters = item.querySelector(".characters");
  [...reading.text].forEach((character, slot) => {
    const part = copyOf("character");
    const picture = part.querySelector("img");
    if (reading.heat) {
      picture.src = reading.heat[slot];
      picture.alt = `heat map of ${character}`;
    } else {
      picture.remove();
    }
    part.querySelector(".text").textContent = character;
    part.querySelector(".share").textContent = percent(reading.character_confidence[slot]);
    const meter = part.querySelector("meter");
    meter.value = reading.character_confidence[slot];
    meter.setAttribute("aria-label", `confidence in ${character}`);
    characters.append(part);
  });
  answers.prepend(item);
}

function showRefusal(file, reason) {
  const item = copyOf("refusal");
  item.querySelector(".file").textContent = file.name || "pasted image";
  item.querySelector(".reason").textContent = reason;
  answers.prepend(item);
}

function takePicked() {
  take(picker.files);
  picker.value = ""; // so that the same file can be chosen again
}

picker.addEventListener("change", takePicked);
takePicked(); // what was chosen before this script ran
form.addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("paste", (event) => take(event.clipboardData.files));

// Images may be dropped anywhere: otherwise the browser would leave the page to show them.
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  form.classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) form.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  form.classList.remove("over");
  take(event.dataTransfer.files);
});
