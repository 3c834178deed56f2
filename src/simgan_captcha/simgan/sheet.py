"""A picture of the progress of a training: synthetic | refined | difference | real."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

MAX_ROWS = 8
MAX_BYTES = 180_000
"""Largest number of uncompressed bytes. It keeps every PNG file below 200 kB."""
_GAP = 2


def sheet_png(synthetic: Tensor, refined: Tensor, real: Tensor) -> bytes:
    """Draw a PNG with one row per image: synthetic | refined | difference | real.

    In the difference, middle grey shows no change, and white shows an increase of 2. There are at
    most `MAX_ROWS` rows. Large images are scaled down.

    Args:
        synthetic: Images (B, C, H, W), float in [-1, 1]. Three channels are shown as RGB. Otherwise
            only the first channel is shown.
        refined: The same images after refining.
        real: Real images (B, C, H, W), float in [-1, 1], of the same size.
    """
    columns = (synthetic, refined, (refined - synthetic) / 2, real)
    rows = [
        np.concatenate([_pixels(column[row]) for column in columns], axis=1)
        for row in range(min(MAX_ROWS, *map(len, columns)))
    ]
    pixels = np.concatenate(rows)[:-_GAP, :-_GAP]
    picture = Image.fromarray(pixels.squeeze(axis=2) if pixels.shape[2] == 1 else pixels)
    shrink = (MAX_BYTES / pixels.size) ** 0.5
    if shrink < 1:
        size = (max(1, int(picture.width * shrink)), max(1, int(picture.height * shrink)))
        picture = picture.resize(size, Image.Resampling.BOX)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _pixels(image: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Pixels (H + gap, W + gap, 1 or 3) ``uint8``, with a white gap below and on the right."""
    shown = image if len(image) == 3 else image[:1]
    grey = ((shown.detach().float().cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    pixels = grey.permute(1, 2, 0).numpy()
    return np.pad(pixels, ((0, _GAP), (0, _GAP), (0, 0)), constant_values=255)
