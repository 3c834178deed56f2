"""Display of images in a terminal."""

from pathlib import Path

import cv2
import numpy as np

from simgan_captcha.data.pictures import Pixels
from simgan_captcha.pipeline.lesson import TEACH

ASKED = Path(TEACH) / "asked.png"
"""File with the image to label, for terminals without colours."""

_COLUMNS = 76
_UPPER_HALF = "\u2580"


def picture_in_blocks(rgb: Pixels) -> str:
    """Draw an image (H, W, 3) with half blocks in 24-bit colour, at most 76 columns wide.

    Each character shows two pixels: the upper as its colour, the lower as its background.
    """
    height, width = rgb.shape[:2]
    columns = min(_COLUMNS, width)
    rows = max(2, 2 * round(height * columns / width / 2))
    small = cv2.resize(rgb, (columns, rows), interpolation=cv2.INTER_AREA)
    lines = [
        "".join(_block(above, below) for above, below in zip(upper, lower, strict=True)) + "\x1b[0m"
        for upper, lower in zip(small[::2], small[1::2], strict=True)
    ]
    return "\n".join(lines)


def _block(above: np.ndarray, below: np.ndarray) -> str:
    colours = (";".join(str(int(value)) for value in pixel) for pixel in (above, below))
    foreground, background = colours
    return f"\x1b[38;2;{foreground}m\x1b[48;2;{background}m{_UPPER_HALF}"
