// Captchas of npm packages that were not used in development: FOLDER COUNT KIND.
const crypto = require("crypto");
const fs = require("fs");

const [folder, count, kind] = process.argv.slice(2);
const KINDS = {
  // trek-captcha: GIF files of five lowercase letters on a wave.
  trek: () => {
    const captcha = require("trek-captcha");
    return async () => {
      const { token, buffer } = await captcha();
      return [token, "gif", buffer];
    };
  },
  // ppfun-captcha: outlines of letters, all one path.
  ppfun: () => {
    const captcha = require("ppfun-captcha");
    const { Resvg } = require("@resvg/resvg-js");
    const drawing = { background: "white", fitTo: { mode: "width", value: 200 } };
    return async () => {
      const { data, text } = captcha.create({ size: 4, ignoreChars: "0o1iIlO" });
      return [text, "png", new Resvg(data, drawing).render().asPng()];
    };
  },
  // captchapng: small digits in bitmap fonts.
  captchapng: () => {
    const Captcha = require("captchapng");
    return async () => {
      const text = String(crypto.randomInt(1000, 10000));
      const image = new Captcha(80, 30, Number(text));
      image.color(0, 0, 0, 0);
      image.color(80, 80, 80, 255);
      return [text, "png", Buffer.from(image.getBase64(), "base64")];
    };
  },
};

async function main() {
  const draw = KINDS[kind]();
  fs.mkdirSync(`${folder}/images`, { recursive: true });
  const labels = ["name,label"];
  for (let n = 0; n < Number(count); n++) {
    const [text, type, bytes] = await draw();
    const name = `${crypto.randomBytes(16).toString("hex")}.${type}`;
    fs.writeFileSync(`${folder}/images/${name}`, bytes);
    labels.push(`${name},${text}`);
  }
  fs.writeFileSync(`${folder}/labels.csv`, labels.join("\n") + "\n");
}

main();
