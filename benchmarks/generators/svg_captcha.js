// Captchas of the npm package svg-captcha as PNG: FOLDER COUNT SIZE NOISE.
const crypto = require("crypto");
const fs = require("fs");
const { Resvg } = require("@resvg/resvg-js");
const captcha = require("svg-captcha");

const [folder, count, size, noise] = process.argv.slice(2);
fs.mkdirSync(`${folder}/images`, { recursive: true });
const labels = ["name,label"];
for (let n = 0; n < Number(count); n++) {
  const { data, text } = captcha.create({ size: Number(size), noise: Number(noise), ignoreChars: "0o1iIlO" });
  const name = `${crypto.randomBytes(16).toString("hex")}.png`;
  fs.writeFileSync(`${folder}/images/${name}`, new Resvg(data, { background: "white" }).render().asPng());
  labels.push(`${name},${text}`);
}
fs.writeFileSync(`${folder}/labels.csv`, labels.join("\n") + "\n");
