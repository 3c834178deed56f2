"""Drawn images with known poses, and predictions of bootstrap recognizers of several qualities."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from font_lato import font_files

from simgan_captcha.calibration.drawing.poses import Poses
from simgan_captcha.calibration.glyph_fit import glyph_side
from simgan_captcha.scheme import Scheme
from simgan_captcha.simulator.calibrated import GLYPH_SCALE, UNKNOWN_CLUTTER, Calibration
from simgan_captcha.simulator.pose import PLACED, POSE
from simgan_captcha.simulator.settings import SimulatorSettings
from simgan_captcha.simulator.simulator import DrawParameters, Simulator
from simgan_captcha.types import FloatImages, Floats, GreyImages
from tests.drawing import plain, striped

STRANGER = font_files["LatoBlack"]
"""A font that the simulator does not have; calibration must learn its glyphs."""

LETTERS = Scheme(alphabet="agel1m", length=4, width=100, height=50)
STRIPED = striped((60, 140, 100, 150), 250)
SIDE = glyph_side(LETTERS.height)
SIZE = 24


def drawing(**changes: Any) -> SimulatorSettings:
    """Settings of one font of one size, with weak compression."""
    values = {
        "fonts": (STRANGER,),
        "size": (SIZE, SIZE),
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


def exact_poses(parameters: DrawParameters, scheme: Scheme = LETTERS) -> Poses:
    """The predictions of a perfect bootstrap recognizer."""
    probabilities = np.eye(scheme.classes, dtype=np.float32)[parameters.ids]
    return Poses(probabilities, parameters.x, parameters.y, parameters.rotation, blank=scheme.blank)


def drawn(count: int, seed: int = 1, **changes: Any) -> tuple[GreyImages, Poses]:
    """Images of overlapping rotated letters under lines, and their poses."""
    simulator = Simulator(LETTERS, drawing(**changes), STRIPED)
    parameters = simulator.draw_parameters(np.random.default_rng(seed), count)
    return simulator.render(parameters), exact_poses(parameters)


@cache
def scene() -> tuple[FloatImages, Poses]:
    """200 normalised images, and their poses."""
    images, poses = drawn(200)
    return STRIPED.normalise(images), poses


@cache
def many_sizes() -> tuple[FloatImages, Poses, npt.NDArray[np.float64]]:
    """Normalised letters that rarely overlap, their poses and the logarithms of their sizes."""
    sizes = (14, 32)
    settings = drawing(
        size=sizes, nearest=0, rotation=(-12, 12), horizontal=(-0.1, 0.1), vertical=(0.45, 0.55)
    )
    simulator = Simulator(LETTERS, settings, plain())
    parameters = simulator.draw_parameters(np.random.default_rng(3), 240)
    drawn = np.unique(np.rint(np.linspace(*sizes, 8)))[parameters.size]
    normalised = plain().normalise(simulator.render(parameters))
    return normalised, exact_poses(parameters), np.log(drawn)


def first_of(poses: Poses, count: int) -> Poses:
    """The poses of the first images."""
    return replace(
        poses,
        probabilities=poses.probabilities[:count],
        x=poses.x[:count],
        y=poses.y[:count],
        rotation=poses.rotation[:count],
    )


def disturbed(poses: Poses, pixels: float, degrees: float) -> Poses:
    """Poses with random errors of these standard deviations."""
    generator = np.random.default_rng(2)

    def off(values: Floats, by: float) -> Floats:
        return values + by * generator.standard_normal(values.shape, np.float32)

    return replace(
        poses,
        x=off(poses.x, pixels),
        y=off(poses.y, pixels),
        rotation=off(poses.rotation, degrees),
    )


def mistaken(poses: Poses, share: float) -> Poses:
    """Predictions in which a share of characters is confidently misread."""
    generator = np.random.default_rng(3)
    classes = poses.probabilities.shape[-1]
    ids = poses.probabilities.argmax(-1)
    others = (ids + generator.integers(1, classes, ids.shape)) % classes
    ids = np.where(generator.random(ids.shape) < share, others, ids)
    return replace(poses, probabilities=np.eye(classes, dtype=np.float32)[ids])


def unsure(poses: Poses, characters: npt.NDArray[np.bool_], probability: float = 0.45) -> Poses:
    """Predictions with less confidence in these (N, L) characters."""
    classes = poses.probabilities.shape[-1]
    hazy = poses.probabilities * probability
    hazy += (1 - probability) / (classes - 1) * (1 - poses.probabilities)
    chosen = characters[..., None]
    return replace(poses, probabilities=np.where(chosen, hazy, poses.probabilities))


@cache
def font_glyphs(font: str, size: int, alphabet: str = LETTERS.alphabet) -> Floats:
    """Coverage (K, SIDE, SIDE) of the upright letters of a font, around their reference points."""
    scheme = Scheme(alphabet=alphabet, length=1, width=SIDE, height=SIDE)
    simulator = Simulator(
        scheme,
        drawing(
            fonts=(font,),
            size=(GLYPH_SCALE * size, GLYPH_SCALE * size),
            rotation=(0, 0),
            horizontal=(0, 0),
            vertical=(0.5, 0.5),
            nearest=0,
            noise=(0, 0),
            jpeg_quality=(100, 100),
        ),
        plain(SIDE, SIDE),
    )
    parameters = simulator.draw_parameters(np.random.default_rng(0), len(alphabet))
    ids = np.arange(len(alphabet)).reshape(-1, 1)
    images = simulator.render(replace(parameters, ids=ids)).astype(np.float32)
    return np.clip((images - 100) / 150, 0, 1)


def similarity(glyphs: npt.NDArray[Any], truth: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Correlation (K, K) of each glyph with each true one."""
    count = len(glyphs)
    both = np.concatenate([glyphs.reshape(count, -1), truth.reshape(count, -1)])
    return np.asarray(np.corrcoef(both)[:count, count:])


DONORS = 200


def skewed(scheme: Scheme, *found: int) -> Calibration:
    """A calibration with non-uniform, correlated poses, and a block as glyph of the found classes.

    The letters of an image lie on one line. Letters further to the right are rotated. In half of
    the images, all letters have the same position in their slots.
    """
    generator = np.random.default_rng(11)
    shape = (DONORS, scheme.max_length)
    alike = generator.random((DONORS, 1)) < 0.5
    along = np.where(alike, generator.random((DONORS, 1)), generator.random(shape))
    line = np.broadcast_to(generator.random((DONORS, 1)), shape)
    slots = np.arange(scheme.max_length) * 25
    places = [
        slots + 5 + 15 * along**2,
        15 + 10 * np.sqrt(line),
        np.where(along < 0.5, -20, 30 * along),
    ]
    glyphs = np.zeros((len(scheme.alphabet), SIDE, SIDE), np.uint8)
    glyphs[list(found)] = block()
    return Calibration(
        glyphs,
        poses=unformed(np.stack(places, -1)),
        offset=np.zeros((len(scheme.alphabet), len(POSE)), np.float32),
        following=regardless(scheme.max_length),
        rendering=np.array([250, 0, 0, 0, 95, 1], np.float32),
        clutter=UNKNOWN_CLUTTER,
    )


def regardless(length: int) -> Floats:
    """A spacing model (L, L, L) of letters at positions that do not depend on widths."""
    return np.zeros((length, length, length), np.float32)


def unformed(places: npt.NDArray[Any]) -> Floats:
    """Poses (..., 9) from x, y and rotation (..., 3), with the form of the glyphs."""
    form = np.zeros((*places.shape[:-1], len(POSE) - PLACED))
    return np.concatenate([places, form], -1, dtype=np.float32)


def block() -> GreyImages:
    """One glyph: an upright block of 8x10 image pixels, above and to the right of the middle."""
    glyph = np.zeros((1, SIDE, SIDE), np.uint8)
    glyph[0, SIDE // 2 - 30 : SIDE // 2 - 10, SIDE // 2 : SIDE // 2 + 16] = 255
    return glyph


def same(one: Calibration, other: Calibration) -> bool:
    """Whether two calibrations are identical."""
    return all(
        a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        for a, b in zip(vars(one).values(), vars(other).values(), strict=True)
    )
