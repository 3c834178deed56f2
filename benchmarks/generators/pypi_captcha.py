"""Captchas of the PyPI package ``captcha``.

Arguments: FOLDER COUNT ALPHABET SHORTEST LONGEST WIDTH HEIGHT [FONT]

Needs an environment of its own with that package, which is no dependency of this one.
"""

import csv
import random
import sys
from pathlib import Path

from captcha.image import ImageCaptcha  # type: ignore[import-not-found]

folder, (count, shortest, longest, width, height) = (
    Path(sys.argv[1]),
    (int(sys.argv[n]) for n in (2, 4, 5, 6, 7)),
)
alphabet, fonts = sys.argv[3], sys.argv[8:] or None
random.seed(1)
(folder / "images").mkdir(parents=True)
draw = ImageCaptcha(width=width, height=height, fonts=fonts)
with (folder / "labels.csv").open("w", newline="") as file:
    labels = csv.writer(file)
    labels.writerow(("name", "label"))
    for _ in range(count):
        text = "".join(random.choices(alphabet, k=random.randint(shortest, longest)))
        name = f"{random.getrandbits(128):032x}.png"
        draw.write(text, str(folder / "images" / name))
        labels.writerow((name, text))
