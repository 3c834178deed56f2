// The page: loads an exported reader, and reads the images that are chosen.
import * as ort from "./onnxruntime-web/ort.wasm.min.mjs";
import { schemeOf, textOf } from "./reader.js";
import { pixelsOf } from "./pixels.js";

ort.env.wasm.wasmPaths = new URL("./onnxruntime-web/", import.meta.url).href;
ort.env.wasm.numThreads = 1; // several threads need headers that a simple server does not send

const state = document.querySelector("#state");
const images = document.querySelector("#images");
const rows = document.querySelector("#readings");
let session, scheme;

function say(text, failed = false) {
  state.textContent = text;
  state.classList.toggle("error", failed);
}

document.querySelector("#reader").addEventListener("change", async ({ target }) => {
  images.disabled = true;
  rows.replaceChildren();
  say("Loading the reader.");
  try {
    const data = new Uint8Array(await target.files[0].arrayBuffer());
    scheme = schemeOf(data);
    session = await ort.InferenceSession.create(data);
    images.disabled = false;
    say(`Choose images. The reader knows the characters ${scheme.alphabet}`);
  } catch (error) {
    say(`The reader cannot be used: ${error.message}`, true);
  }
});

images.addEventListener("change", async () => {
  rows.replaceChildren();
  rows.parentElement.hidden = false;
  const files = [...images.files];
  for (const [number, file] of files.entries()) {
    say(`Reading image ${number + 1} of ${files.length}.`);
    const row = rows.insertRow();
    const picture = row.insertCell().appendChild(new Image());
    picture.src = URL.createObjectURL(file);
    picture.alt = picture.title = file.name;
    const text = row.insertCell();
    try {
      const reading = await read(file);
      text.className = "text";
      text.textContent = reading.text;
      row.insertCell().textContent = reading.confidence.toFixed(4);
    } catch (error) {
      text.colSpan = 2;
      text.className = "error";
      text.textContent = error.message;
    }
  }
  say(`Read ${files.length} images.`);
});

async function read(file) {
  const pixels = pixelsOf(await decoded(file), scheme);
  const input = new ort.Tensor("uint8", pixels, [1, scheme.height, scheme.width]);
  const { ids, confidence } = await session.run({ images: input }, ["ids", "confidence"]);
  return textOf(Array.from(ids.data, Number), Array.from(confidence.data), scheme);
}

// The colours of an image on white, as {data, width, height}: four bytes a pixel.
async function decoded(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw new Error("expected an image, this file cannot be decoded");
  }
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}
