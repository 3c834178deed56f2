"""Draws captchas with the PyPI package ``captcha``.

Arguments: FOLDER COUNT ALPHABET SHORTEST LONGEST WIDTH HEIGHT [FONT | --gradients | --textures]

With ``--gradients``, each background is a Pillow gradient between two light colours. With
``--textures``, each background is Pillow noise in two light colours. The noise is blurred, so that
its grain is at most as wide as the strokes. Each image has its own blur and colours.

The script needs its own environment with that package, which this package does not depend on.
"""

import csv
import random
import sys
from pathlib import Path

from captcha.image import ImageCaptcha  # type: ignore[import-not-found]
from PIL import Image, ImageChops, ImageFilter, ImageOps

folder, (count, shortest, longest, width, height) = (
    Path(sys.argv[1]),
    (int(sys.argv[n]) for n in (2, 4, 5, 6, 7)),
)
ground = next((word for word in sys.argv[8:] if word.startswith("--")), None)
alphabet, fonts = sys.argv[3], None if ground else sys.argv[8:] or None
random.seed(1)
(folder / "images").mkdir(parents=True)
draw = ImageCaptcha(width=width, height=height, fonts=fonts)


def on_gradient(image: Image.Image) -> Image.Image:
    """Put the darkness of an image on a gradient in a random direction."""
    ramp = Image.linear_gradient("L").rotate(random.uniform(0, 360), Image.Resampling.BICUBIC)
    black, white = [tuple(random.choices(range(110, 256), k=3)) for _ in range(2)]
    middle = ramp.crop((52, 52, 204, 204)).resize((width, height))  # never empty after rotation
    return ImageChops.multiply(image.convert("RGB"), ImageOps.colorize(middle, black, white))


def on_texture(image: Image.Image) -> Image.Image:
    """Put the darkness of an image on a grain of two light colours."""
    grain = Image.effect_noise((width, height), 100).filter(
        ImageFilter.GaussianBlur(random.uniform(0.7, 2))
    )
    black, white = [tuple(random.choices(range(110, 256), k=3)) for _ in range(2)]
    colours = ImageOps.colorize(ImageOps.autocontrast(grain, 1), black, white)
    return ImageChops.multiply(image.convert("RGB"), colours)


GROUNDS = {"--gradients": on_gradient, "--textures": on_texture}

with (folder / "labels.csv").open("w", newline="") as file:
    labels = csv.writer(file)
    labels.writerow(("name", "label"))
    for _ in range(count):
        text = "".join(random.choices(alphabet, k=random.randint(shortest, longest)))
        name = f"{random.getrandbits(128):032x}.png"
        path = folder / "images" / name
        draw.write(text, str(path))
        if ground:
            GROUNDS[ground](Image.open(path)).save(path)
        labels.writerow((name, text))
