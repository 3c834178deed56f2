"""Scenes for tests of the simulator and of image analysis."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from simgan_captcha.data.background import Background
from simgan_captcha.simulator.glyphs import font_path
from simgan_captcha.simulator.wide.catalogue import FontEntry
from simgan_captcha.types import GreyImages

LINES = ((5, 10, 90, 14), (10, 8, 92, 44), (3, 30, 80, 46), (20, 40, 95, 5))


def plain(width: int = 100, height: int = 50, grey: int = 100, ink: float = 250.0) -> Background:
    """A background of one grey without lines."""
    return Background(
        np.full((height, width), grey, np.uint8), np.zeros((height, width), np.bool_), ink
    )


def striped(stripes: Sequence[int], ink: int) -> Background:
    """A 100x50 background: four stripes of 25 pixels, and four lines of 2 pixels in ink grey."""
    row = np.repeat(np.array(stripes, np.uint8), 25)
    picture, mask = Image.fromarray(np.tile(row, (50, 1))), Image.new("1", (100, 50))
    for line in LINES:
        ImageDraw.Draw(picture).line(line, fill=ink, width=2)
        ImageDraw.Draw(mask).line(line, fill=1, width=2)
    return Background(np.array(picture), np.array(mask), float(ink))


def encode_jpeg(grey: GreyImages, quality: int) -> bytes:
    """Encode a grey image (H, W) as JPEG. ``quality`` is in 1 to 100."""
    _, data = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return bytes(data)


def write_catalogue(file: Path) -> None:
    """Write a catalogue of fonts that every installation has, in place of Debian's."""
    lines = ["\t".join(field.name for field in dataclasses.fields(FontEntry))]
    for name in ("roboto-black", "source-serif", "dejavu-sans-mono"):
        lines.append(f"{font_path(name)}\t{name}\t{name}\t\tOFL\ttrain\tFalse")
    file.write_text("\n".join([*lines, ""]))
