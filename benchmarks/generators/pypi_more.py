"""Draws captchas with PyPI packages that were not used in development.

Arguments: FOLDER COUNT KIND, one of KINDS

The script needs its own environment with that package, which this package does not depend on.
"""

import csv
import io
import random
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase, digits

from PIL import Image

Draw = Callable[[], tuple[Image.Image, str]]
"""Draws one captcha: image and text."""

_LIBERATION = "/usr/share/fonts/truetype/liberation/Liberation"


def text_of(alphabet: str, length: int) -> str:
    """A random text."""
    return "".join(random.choices(alphabet, k=length))


def wheezy() -> Draw:
    """wheezy.captcha as its documentation draws: warped and turned letters, a curve, noise."""
    from wheezy.captcha import image as parts  # type: ignore[import-not-found]

    fonts = [f"{_LIBERATION}{name}-Bold.ttf" for name in ("Mono", "Serif")]
    moves = [parts.warp(), parts.rotate(), parts.offset()]
    draw = parts.captcha(
        drawings=[
            parts.background(),
            parts.text(fonts=fonts, drawings=moves),
            parts.curve(),
            parts.noise(),
            parts.smooth(),
        ]
    )

    def one() -> tuple[Image.Image, str]:
        text = text_of(ascii_uppercase + digits, 4)
        return draw(text), text

    return one


def django() -> Draw:
    """django-simple-captcha with its defaults: turned letters, arcs and dots, any width."""
    import django as framework  # type: ignore[import-not-found]
    from django.conf import settings  # type: ignore[import-not-found]

    settings.configure(INSTALLED_APPS=["captcha"])
    framework.setup()
    from captcha import views  # type: ignore[import-not-found]

    def one() -> tuple[Image.Image, str]:
        text = text_of(ascii_uppercase, 4)
        store = type("Store", (), {"challenge": text})
        return Image.open(io.BytesIO(views._captcha_image(store, 2).content)), text

    return one


def gvcode() -> Draw:
    """gvcode: letters of several colours, turned by up to 90 degrees, with lines."""
    from gvcode import VFCode  # type: ignore[import-not-found]

    colours = ["#000000", "#3e3e3e", "#ff1107", "#235aff"]

    def one() -> tuple[Image.Image, str]:
        text, drawn = text_of(ascii_lowercase + digits, 5), VFCode(font_color_values=colours)
        drawn.generate(text)
        return drawn._img, text

    return one


def multicolor() -> Draw:
    """multicolorcaptcha: four hexadecimal digits in many fonts, on any colour, with black lines."""
    from multicolorcaptcha import CaptchaGenerator  # type: ignore[import-not-found]

    generator = CaptchaGenerator(0)

    def one() -> tuple[Image.Image, str]:
        drawn = generator.gen_captcha_image(difficult_level=2, chars_mode="hex")
        return drawn.image, drawn.characters

    return one


KINDS = {one.__name__: one for one in (wheezy, django, gvcode, multicolor)}


def main(folder: Path, count: int, kind: str) -> None:
    random.seed(1)
    draw = KINDS[kind]()
    (folder / "images").mkdir(parents=True)
    with (folder / "labels.csv").open("w", newline="") as file:
        labels = csv.writer(file)
        labels.writerow(("name", "label"))
        for _ in range(count):
            image, text = draw()
            name = f"{secrets.token_hex(16)}.png"
            image.convert("RGB").save(folder / "images" / name)
            labels.writerow((name, text))


main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
