"""Batches of synthetic images for the generalist, with every character's place.

A pool is a pure function of (seed, number): drawing may be spread over processes, and a training
goes on exactly where it stopped.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from simgan_captcha.generalist.characters import BLANK, encode
from simgan_captcha.generalist.features import HEIGHT, STRIDE, features, input_width
from simgan_captcha.simulator.wide.drawing import DrawnImage, render
from simgan_captcha.simulator.wide.fonts import FontShelf
from simgan_captcha.simulator.wide.plans import draw_plan
from simgan_captcha.simulator.wide.styles import draw_style
from simgan_captcha.types import Floats, Ids

MOST_TRAINING_COLUMNS = 320
IGNORED = -1
"""Target of the columns next to a character's middle, where either output is right."""


class Examples(NamedTuple):
    """B images, padded on the right to one width."""

    images: Floats
    """(B, 4, 40, W)."""
    texts: Ids
    """(B, L) class ids, padded with blanks."""
    lengths: Ids
    """(B,) characters of each text."""
    columns: Ids
    """(B, T) class whose middle each output column holds, the blank, or `IGNORED`."""
    geometry: Floats
    """(B, T, 4), see `network.GeneralistOutput`; counts where ``columns`` is a character."""


def draw_pool(
    shelf: FontShelf, seed: int, number: int, *, families: int, images: int, difficulty: float
) -> list[DrawnImage]:
    """Images of new families: ``families`` times ``images``."""
    drawn = []
    for family in range(families):
        generator = np.random.default_rng((seed, number, family))
        style = draw_style(shelf, generator, difficulty)
        drawn += [render(draw_plan(style, shelf, generator), shelf) for _ in range(images)]
    return drawn


def batches(
    pool: list[DrawnImage], size: int, generator: np.random.Generator
) -> Iterator[Examples]:
    """A pool in batches of images of like width, in random order."""
    widths = np.array([_columns(drawn) for drawn in pool])
    # Ties in random order, so that a batch holds many families.
    order = np.lexsort((generator.random(len(pool)), widths))
    cuts = [order[at : at + size] for at in range(0, len(pool) - size + 1, size)]
    for at in generator.permutation(len(cuts)):
        yield make_examples([pool[index] for index in cuts[at]])


def _columns(drawn: DrawnImage) -> int:
    return input_width(drawn.image.shape[0], drawn.image.shape[1], MOST_TRAINING_COLUMNS)


def make_examples(drawn: list[DrawnImage]) -> Examples:
    """A batch of images."""
    widths = [_columns(d) for d in drawn]
    B, W = len(drawn), 8 * -(-max(widths) // 8)
    T, L = W // STRIDE, max(len(d.text) for d in drawn)
    examples = Examples(
        np.zeros((B, 4, HEIGHT, W), np.float32),
        np.full((B, L), BLANK, np.int64),
        np.array([len(d.text) for d in drawn], np.int64),
        np.full((B, T), BLANK, np.int64),
        np.zeros((B, T, 4), np.float32),
    )
    for index, (d, width) in enumerate(zip(drawn, widths, strict=True)):
        examples.images[index, :, :, :width] = features(d.image, width)
        examples.texts[index, : len(d.text)] = encode(d.text)
        _mark_columns(examples, index, d, width)
    return examples


def _mark_columns(examples: Examples, index: int, drawn: DrawnImage, width: int) -> None:
    """Each character's nearest column holds it, or the next free one to the right."""
    H, W, _ = drawn.image.shape
    columns, T = examples.columns[index], width // STRIDE
    x = drawn.places[:, 0] * (width / W) / STRIDE  # in columns
    y, size = drawn.places[:, 1] / H - 0.5, drawn.places[:, 2] / H
    taken: list[int] = []
    for place in x:
        column = int(np.clip(np.floor(place), 0, T - 1))
        if taken and column <= taken[-1]:
            column = min(taken[-1] + 1, T - 1)
        taken.append(column)
    # Columns within a fifth of a capital of a middle may tell the character as well.
    reach = 0.2 * size * HEIGHT / STRIDE
    centres = np.arange(T) + 0.5
    columns[:T][(np.abs(centres[:, None] - x) < reach + 0.5).any(1)] = IGNORED
    columns[taken] = examples.texts[index, : len(taken)]
    examples.geometry[index, taken] = np.stack(
        [x - (np.array(taken) + 0.5), y, np.log(size), np.radians(drawn.places[:, 3])], 1
    )
