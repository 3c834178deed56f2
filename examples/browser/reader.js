// What an exported reader says of itself, and the texts that it gives.

// Values by field number of a message in the format of protocol buffers.
function* fields(data) {
  let at = 0;
  function number() {
    let value = 0, scale = 1, byte;
    do {
      if (at >= data.length) throw new Error("it is not an ONNX file");
      byte = data[at++];
      value += (byte & 127) * scale;
      scale *= 128;
    } while (byte & 128);
    return value;
  }
  while (at < data.length) {
    const key = number(), kind = key & 7;
    if (kind === 0) number();
    else if (kind === 1) at += 8;
    else if (kind === 5) at += 4;
    else if (kind === 2) {
      const length = number();
      yield [Math.floor(key / 8), data.subarray(at, at + length)];
      at += length;
    } else throw new Error("it is not an ONNX file");
  }
}

// The scheme in the metadata of an ONNX file (field 14 of its model).
export function schemeOf(data) {
  const decoder = new TextDecoder();
  for (const [number, entry] of fields(data)) {
    if (number !== 14) continue;
    const parts = new Map(fields(entry));
    if (decoder.decode(parts.get(1)) !== "simgan_captcha") continue;
    const { scheme } = JSON.parse(decoder.decode(parts.get(2)));
    if (scheme.background === "varying") {
      throw new Error("expected a scheme with a shared or plain background, its background is varying; use simgan-captcha read");
    }
    return scheme;
  }
  throw new Error("expected a file that simgan-captcha export wrote, its metadata has no scheme");
}

// Text and confidence of one image from class ids and their probabilities.
export function textOf(ids, confidence, scheme) {
  const characters = Array.from(scheme.alphabet);
  const text = ids.map((id) => characters[id] ?? "").join(""); // the last class is an empty slot
  return { text, confidence: confidence.reduce((product, one) => product * Math.min(one, 1), 1) };
}
