// The grey levels that the network takes, computed as in simgan_captcha/data/foreground.py.

const INK = 200, STRONGEST = 98, INKED = 0.2, LARGE = 0.15, OF_LETTERS = 75, STRONGER = 1.25;
const LEAST_INK = 32, NEAR = 24;

// Grey levels (H * W) of an image {data, width, height} with four bytes a pixel.
export function pixelsOf(image, scheme) {
  const { width, height } = scheme;
  if (scheme.background !== "shared") return inkOnBlack(image, width, height);
  if (image.width !== width || image.height !== height) {
    throw new Error(`expected an image of ${width}x${height} pixels, got ${image.width}x${image.height}`);
  }
  const grey = new Uint8Array(width * height); // ITU-R BT.601 in integers, as OpenCV computes it
  for (let k = 0; k < grey.length; k++) {
    const [red, green, blue] = image.data.subarray(4 * k, 4 * k + 3);
    grey[k] = (9798 * red + 19235 * green + 3735 * blue + 16384) >> 15;
  }
  return grey;
}

function inkOnBlack(image, width, height) {
  const { levels, w, h } = fitted(image, width, height);
  const ground = commonestColour(levels);
  const distance = new Float32Array(w * h);
  for (let k = 0; k < distance.length; k++) {
    distance[k] = Math.max(...[0, 1, 2].map((c) => Math.abs(levels[3 * k + c] - ground[c])));
  }
  const scale = INK / Math.max(strength(distance, w, h), LEAST_INK);
  const padded = new Uint8Array(width * height);
  const top = (height - h) >> 1, left = (width - w) >> 1;
  for (let y = 0; y < h; y++) {
    for (let x = 0; x < w; x++) {
      padded[(top + y) * width + left + x] = Math.min(rounded(distance[y * w + x] * scale), 255);
    }
  }
  return padded;
}

// To the nearest integer; halves to the even one.
function rounded(value) {
  const below = Math.floor(value), part = value - below;
  return part < 0.5 || (part === 0.5 && below % 2 === 0) ? below : below + 1;
}

// Three levels a pixel, scaled to fit with the same aspect ratio.
function fitted(image, width, height) {
  const scale = Math.min(width / image.width, height / image.height);
  const size = (length, most) => Math.min(most, Math.max(1, rounded(length * scale)));
  const w = size(image.width, width), h = size(image.height, height);
  const across = weights(image.width, w, scale < 1), down = weights(image.height, h, scale < 1);
  const levels = new Uint8Array(3 * w * h);
  for (let y = 0; y < h; y++) {
    for (let x = 0; x < w; x++) {
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        for (const [row, of_row] of down[y]) {
          for (const [column, of_column] of across[x]) {
            sum += of_row * of_column * image.data[4 * (row * image.width + column) + c];
          }
        }
        levels[3 * (y * w + x) + c] = Math.floor(sum + 0.5 + 1e-9);
      }
    }
  }
  return { levels, w, h };
}

// For each of `to` places, the places of `from` that it is the mean of, with their weights.
function weights(from, to, smaller) {
  const step = from / to;
  return Array.from({ length: to }, (_, place) => {
    if (smaller) {
      const begin = place * step, end = Math.min(begin + step, from), found = [];
      for (let k = Math.floor(begin); k < end; k++) {
        const share = Math.min(k + 1, end) - Math.max(k, begin);
        if (share > 1e-6) found.push([k, share / (end - begin)]);
      }
      return found;
    }
    const centre = Math.min(Math.max((place + 0.5) * step - 0.5, 0), from - 1);
    const first = Math.floor(centre), share = centre - first;
    return share ? [[first, 1 - share], [first + 1, share]] : [[first, 1]];
  });
}

// The mean of the most frequent colours; a background may lie across the border of two bins.
function commonestColour(levels) {
  const pixels = levels.length / 3, counts = new Uint32Array(4096);
  const bin = (k) => ((levels[3 * k] >> 4) << 8) | (levels[3 * k + 1] & 240) | (levels[3 * k + 2] >> 4);
  for (let k = 0; k < pixels; k++) counts[bin(k)]++;
  const most = counts.indexOf(counts.reduce((a, b) => Math.max(a, b)));
  const mean = (chosen) => {
    const sum = [0, 0, 0];
    let number = 0;
    for (let k = 0; k < pixels; k++) {
      if (!chosen(k)) continue;
      number++;
      for (let c = 0; c < 3; c++) sum[c] += levels[3 * k + c];
    }
    return sum.map((one) => one / number);
  };
  const commonest = mean((k) => bin(k) === most);
  return mean((k) => commonest.every((level, c) => Math.abs(levels[3 * k + c] - level) <= NEAR));
}

// Strength of the ink in levels, chosen so that pale letters among dark dots are amplified.
function strength(distance, w, h) {
  const strongest = percentile(distance, STRONGEST), least = (LARGE * h) ** 2;
  const waiting = Uint8Array.from(distance, (one) => one > INKED * strongest), letters = [];
  for (let start = 0; start < waiting.length; start++) {
    if (!waiting[start]) continue;
    const piece = [start];
    waiting[start] = 0;
    for (const place of piece) {
      const x = place % w, y = (place - x) / w;
      for (let i = Math.max(y - 1, 0); i <= Math.min(y + 1, h - 1); i++) {
        for (let j = Math.max(x - 1, 0); j <= Math.min(x + 1, w - 1); j++) {
          if (!waiting[i * w + j]) continue;
          waiting[i * w + j] = 0;
          piece.push(i * w + j);
        }
      }
    }
    if (piece.length >= least) for (const place of piece) letters.push(distance[place]);
  }
  return letters.length ? Math.min(strongest, STRONGER * percentile(letters, OF_LETTERS)) : strongest;
}

function percentile(values, percent) {
  const sorted = Float32Array.from(values).sort();
  const place = ((sorted.length - 1) * percent) / 100, below = Math.floor(place);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (place - below);
}
