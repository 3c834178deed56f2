"""Two kinds of captcha in one folder are named."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

import simgan_captcha as sc
from simgan_captcha.simulator.glyphs import font_path
from tests.commands import command

KINDS: dict[str, tuple[str, int, tuple[int, int], str]] = {
    "digits": ("0123456789", 4, (100, 40), "white"),
    "letters": ("abdefhkmnrtxy", 6, (180, 50), "lightsteelblue"),
    "wide": ("0123456789", 4, (140, 40), "white"),
}


def draw(folder: Path, kind: str, count: int) -> None:
    """Draw captchas of a kind, whose alphabet, length, size and background are those of `KINDS`."""
    alphabet, length, size, ground = KINDS[kind]
    generator = np.random.default_rng(1)
    font = ImageFont.truetype(font_path("dejavu-sans-mono"), 26)
    folder.mkdir(exist_ok=True)
    for number in range(count):
        image = Image.new("RGB", size, ground)
        text = "".join(generator.choice(list(alphabet), length))
        place = int(generator.integers(4, 14)), int(generator.integers(1, 10))
        ImageDraw.Draw(image).text(place, text, "black", font)
        image.save(folder / f"{kind}{number:02}.png")


@pytest.mark.parametrize(("digits", "letters"), [(20, 20), (30, 6)])
def test_init_names_both_kinds(tmp_path: Path, digits: int, letters: int) -> None:
    draw(tmp_path / "images", "digits", digits)
    draw(tmp_path / "images", "letters", letters)
    done = command("init", tmp_path / "images", tmp_path / "my.toml")
    assert done.code == 0
    (line,) = [line for line in done.err.splitlines() if "two kinds" in line]
    assert f"{letters} images (letters00.png, letters01.png, letters02.png, …)" in line
    assert f"{digits} images (digits00.png, digits01.png, digits02.png, …)" in line
    assert "put each kind into a folder of its own" in line


@pytest.mark.parametrize("others", [(), ("wide",)], ids=["one size", "two sizes"])
def test_one_kind_is_one(tmp_path: Path, others: tuple[str, ...]) -> None:
    for kind in ("digits", *others):
        draw(tmp_path / "images", kind, 20)
    assert not [doubt for doubt in sc.inspect(tmp_path / "images").doubts if "two kinds" in doubt]
