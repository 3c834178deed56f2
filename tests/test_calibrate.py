import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from font_lato import font_files
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from simgan_captcha.background import Background, FloatImages
from simgan_captcha.calibrate import (
    FEWEST_EXAMPLES,
    QUANTILES,
    Calibration,
    Floats,
    Poses,
    calibrate,
    glyph_sheet,
    harvest_glyphs,
)
from simgan_captcha.errors import RunError
from simgan_captcha.images import GreyImages, encode_jpeg
from simgan_captcha.reader.reading import load_reader
from simgan_captcha.reader.scout import PosedSimulator
from simgan_captcha.scheme import Scheme
from simgan_captcha.simulator import DrawParameters, Simulator, SimulatorSettings
from simgan_captcha.stages import MANIFEST
from simgan_captcha.store import CaptchaStore
from simgan_captcha.streams import synthetic_batches
from tests.drawing import plain, striped
from tests.small_run import SCHEME, pipeline, shaded, write_challenges

STRANGER = font_files["LatoBlack"]
"""A font that the simulator does not hold: what glyphs are to be learned of."""

LETTERS = Scheme(alphabet="agel1m", length=4, width=100, height=50)
STRIPED = striped((60, 140, 100, 150), 250)
SIDE = 40
"""Of a glyph harvested from images 50 pixels high."""


def drawing(**changes: Any) -> SimulatorSettings:
    """One font of one size, hardly any codec."""
    values = {
        "fonts": (STRANGER,),
        "size": (26, 26),
        "strokes": (0.0,),
        "rotation": (-30, 30),
        "shear": (0, 0),
        "stretch": (1, 1),
        "horizontal": (-0.3, 0.3),
        "vertical": (0.3, 0.7),
        "ink": (0, 0),
        "nearest": 0.5,
        "blur": (0, 0),
        "noise": (0, 1),
        "jpeg_quality": (50, 50),
    }
    return SimulatorSettings(**{**values, **changes})


def exact_poses(parameters: DrawParameters, scheme: Scheme) -> Poses:
    """What a perfect scout would say."""
    probabilities = np.eye(len(scheme.alphabet), dtype=np.float32)[parameters.ids]
    return Poses(probabilities, parameters.x, parameters.y, parameters.rotation)


@cache
def scene() -> tuple[FloatImages, Poses]:
    """400 normalised images of overlapping turned letters under lines, and their poses."""
    simulator = Simulator(LETTERS, drawing(), STRIPED)
    parameters = simulator.draw_parameters(np.random.default_rng(1), 400)
    return STRIPED.normalise(simulator.render(parameters)), exact_poses(parameters, LETTERS)


def disturbed(poses: Poses, pixels: float, degrees: float) -> Poses:
    generator = np.random.default_rng(2)

    def off(values: Floats, by: float) -> Floats:
        return values + generator.uniform(-by, by, values.shape).astype(np.float32)

    return replace(
        poses,
        x=off(poses.x, pixels),
        y=off(poses.y, pixels),
        rotation=off(poses.rotation, degrees),
    )


def mistaken(poses: Poses, share: float) -> Poses:
    """So many characters are surely taken for another one."""
    generator = np.random.default_rng(3)
    classes = poses.probabilities.shape[-1]
    wrong = np.roll(poses.probabilities, 1, axis=-1)
    for _ in range(classes - 2):
        again = generator.random(poses.x.shape) < 0.5
        wrong[again] = np.roll(wrong, 1, axis=-1)[again]
        right = (wrong == poses.probabilities).all(-1)
        wrong[right] = np.roll(wrong, 1, axis=-1)[right]
    chosen = generator.random((*poses.x.shape, 1)) < share
    return replace(poses, probabilities=np.where(chosen, wrong, poses.probabilities))


@cache
def true_glyphs(alphabet: str, size: int, side: int) -> npt.NDArray[np.float64]:
    """(K, side, side) coverage of the stranger's letters, upright, about their middles."""
    scheme = Scheme(alphabet=alphabet, length=1, width=side, height=side)
    simulator = Simulator(
        scheme,
        drawing(
            size=(size, size),
            rotation=(0, 0),
            horizontal=(0, 0),
            vertical=(0.5, 0.5),
            nearest=0,
            noise=(0, 0),
            jpeg_quality=(100, 100),
        ),
        plain(side, side),
    )
    parameters = simulator.draw_parameters(np.random.default_rng(0), len(alphabet))
    ids = np.arange(len(alphabet)).reshape(-1, 1)
    return (simulator.render(replace(parameters, ids=ids)).astype(np.float64) - 100) / 150


def likeness(glyphs: npt.NDArray[Any], truth: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """(K, K): correlation of each glyph with each true one."""
    count = len(glyphs)
    both = np.concatenate([glyphs.reshape(count, -1), truth.reshape(count, -1)])
    return np.asarray(np.corrcoef(both)[:count, count:])


def own_likeness(glyphs: GreyImages) -> npt.NDArray[np.float64]:
    """(K,): of each glyph with its true one, having seen that it is more like that than any."""
    found = likeness(glyphs, true_glyphs(LETTERS.alphabet, 26, SIDE))
    np.testing.assert_array_equal(found.argmax(1), np.arange(len(found)))
    np.testing.assert_array_equal(found.argmax(0), np.arange(len(found)))
    return np.asarray(np.diagonal(found))


# Glyphs.


@pytest.mark.parametrize(
    ("pixels", "degrees", "share"),
    [(0, 0, 0), (1, 4, 0), (1, 4, 0.1)],
    ids=["exact", "disturbed", "mistaken"],
)
def test_glyphs_of_a_font_that_nobody_holds_are_found(
    pixels: float, degrees: float, share: float
) -> None:
    normalised, poses = scene()
    poses = mistaken(disturbed(poses, pixels, degrees), share)
    glyphs = harvest_glyphs(normalised, poses, seed=0)
    assert glyphs.shape == (len(LETTERS.alphabet), SIDE, SIDE)
    assert glyphs.dtype == np.uint8
    assert own_likeness(glyphs).min() > 0.95


def upright(normalised: FloatImages, poses: Poses, n: int, slot: int) -> tuple[Floats, Floats]:
    """Ink and visibility of one character about its place, both (SIDE, SIDE), 0 to 1."""
    x, y = float(poses.x[n, slot]) - 0.5, float(poses.y[n, slot]) - 0.5
    turn = cv2.getRotationMatrix2D((x, y), -float(poses.rotation[n, slot]), 1)
    turn[:, 2] += SIDE / 2 - 0.5 - np.array([x, y])
    ink, line = (
        cv2.warpAffine(channel, turn, (SIDE, SIDE), borderValue=outside)
        for channel, outside in zip((normalised[n] + 1) / 2, (0, 1), strict=True)
    )
    return np.asarray(ink, np.float32), np.asarray(1 - line, np.float32)


def test_alignment_sharpens() -> None:
    """The mean of characters where a scout that errs a little says they are is hazier."""
    normalised, exact = scene()
    poses = disturbed(exact, 2, 8)
    glyphs = harvest_glyphs(normalised, poses, seed=0)
    hazy = np.zeros(glyphs.shape)
    for k in range(len(glyphs)):
        cut = [upright(normalised, poses, n, s) for n, s in np.argwhere(poses.probabilities[..., k])]
        ink, visible = (np.stack(channel) for channel in zip(*cut, strict=True))
        mean = (ink * visible).sum(0) / (visible.sum(0) + 1e-3)
        hazy[k] = np.clip((mean - 0.25) * 2, 0, 1)
    print(own_likeness(glyphs), np.diagonal(likeness(hazy, true_glyphs(LETTERS.alphabet, 26, SIDE))))

    def partly_covered(pictures: npt.NDArray[Any], full: float) -> float:
        return float(((pictures > 0.2 * full) & (pictures < 0.8 * full)).mean())

    print(partly_covered(glyphs, 255), partly_covered(hazy, 1))


@pytest.mark.parametrize("known", [True, False])
def test_what_lines_hide_is_taken_from_other_characters(known: bool) -> None:
    """A line goes through the middle of every upright letter; letters lie a little up or down."""
    background = plain()
    background.line_mask[24:26] = True
    background.grey[background.line_mask] = 250
    settings = drawing(rotation=(0, 0), vertical=(0.45, 0.55), horizontal=(0, 0))
    simulator = Simulator(LETTERS, settings, background)
    parameters = simulator.draw_parameters(np.random.default_rng(4), 100)
    normalised = background.normalise(simulator.render(parameters))
    if not known:
        normalised[:, 1] = -1
    glyphs = harvest_glyphs(normalised, exact_poses(parameters, LETTERS), seed=0)
    middle = slice(SIDE // 2 - 3, SIDE // 2 + 3)
    truth = true_glyphs(LETTERS.alphabet, 26, SIDE)
    error = np.abs(glyphs[:, middle] / 255 - truth[:, middle])[truth[:, middle] > 0.8].mean()
    print(known, error, likeness(glyphs, truth).diagonal())
