"""Fit the simulator to unlabelled images: where letters lie, how they turn, how they look.

A scout, a reader that also tells each character's place and turn, learns from the uncalibrated
simulator, where all three are known, and then looks at the real images. Their places and turns, as
a whole, are what the simulator shall draw. And of every class the characters that the scout is
surest of, cut out, turned upright and averaged, are the glyph that the real images are drawn with:
a shape that no font of the simulator holds is learned from the images themselves.

No label is seen. A class with too few sure characters gets no glyph, and a warning says so.

Shapes: N images, H and W pixels, L characters, K classes, S side of a glyph.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from simgan_captcha.atomic import write_bytes
from simgan_captcha.background import FloatImages
from simgan_captcha.errors import RunError
from simgan_captcha.images import GreyImages

Floats = npt.NDArray[np.float32]

EXAMPLES = 150
"""Characters averaged for a glyph, drawn from the surest twice as many."""

FEWEST_EXAMPLES = 20
"""With fewer, a class gets no glyph."""

SUREST = 0.5
"""A character with a lower probability is no example of its class."""

SURE_POSE = 0.9
"""Places and turns are taken from characters read with more than this probability."""

QUANTILES = np.linspace(0, 1, 101)

_SHIFTS = (((1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)), (3.0, -3.0, 6.0, -6.0))
_FINE_SHIFTS = (((0.5, 0.0), (-0.5, 0.0), (0.0, 0.5), (0.0, -0.5)), (2.0, -2.0))


@dataclass(frozen=True)
class Poses:
    """What a scout says of N images of L characters."""

    probabilities: Floats
    """(N, L, K)."""
    x: Floats
    """(N, L) pixels; where the middle of the character lies, likewise ``y``."""
    y: Floats
    rotation: Floats
    """(N, L) degrees, counter-clockwise."""


@dataclass(frozen=True)
class Calibration:
    """What the simulator shall draw."""

    glyphs: GreyImages
    """(K, S, S) coverage of each class's glyph, 0 none to 255 full; all 0 where none was found."""
    x: Floats
    """(L, 101) quantiles of each slot's place, pixels."""
    y: Floats
    """(101,) quantiles of all characters' heights, pixels from the top."""
    rotation: Floats
    """(101,) quantiles, degrees."""

    @property
    def found(self) -> npt.NDArray[np.bool_]:
        """(K,) whether a class has a glyph."""
        return np.asarray(self.glyphs.any(axis=(1, 2)))

    def draw_places(
        self, generator: np.random.Generator, count: int
    ) -> tuple[Floats, Floats, Floats]:
        """x, y and rotation, (count, L) each, distributed as in the real images."""
        slots = len(self.x)
        along = generator.random((3, count, slots))
        x = [np.interp(along[0, :, slot], QUANTILES, self.x[slot]) for slot in range(slots)]
        y = np.interp(along[1], QUANTILES, self.y)
        rotation = np.interp(along[2], QUANTILES, self.rotation)
        return np.stack(x, 1).astype(np.float32), y.astype(np.float32), rotation.astype(np.float32)

    def summary(self, alphabet: str) -> dict[str, Any]:
        """What was found, for people: the middle 98 % of places and turns, and missing glyphs."""

        def middle(quantiles: Floats) -> list[float]:
            return [round(float(quantiles[1]), 1), round(float(quantiles[99]), 1)]

        missing = [c for c, found in zip(alphabet, self.found, strict=True) if not found]
        return {
            "x": [middle(slot) for slot in self.x],
            "y": middle(self.y),
            "rotation": middle(self.rotation),
            "warnings": [
                f"too few {character!r} were read surely enough to learn its shape from the "
                "images; the simulator's fonts alone draw it: its readings deserve a look"
                for character in missing
            ],
        }

    def save(self, path: Path) -> None:
        """Write as an .npz of plain arrays."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, glyphs=self.glyphs, x=self.x, y=self.y, rotation=self.rotation)
        write_bytes(path, buffer.getvalue())

    @staticmethod
    def load(path: Path) -> "Calibration":
        """Read what `save` wrote.

        Raises:
            RunError: Missing or damaged.
        """
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
                calibration = Calibration(*(arrays[f.name] for f in fields(Calibration)))
            calibration._require_whole()
            return calibration
        except Exception as error:  # whatever zipfile, zlib and numpy make of damaged bytes
            raise RunError(
                f"expected a calibration at {path}, could not read it ({error}); "
                "delete its folder and run again"
            ) from None

    def _require_whole(self) -> None:
        arrays = (self.glyphs, self.x, self.y, self.rotation)
        dtypes = [array.dtype.name for array in arrays]
        if dtypes != ["uint8", "float32", "float32", "float32"]:
            raise ValueError(f"arrays of {', '.join(dtypes)}")
        side, quantiles = self.glyphs.shape[-1], len(QUANTILES)
        shapes = [array.shape for array in arrays]
        if shapes != [
            (len(self.glyphs), side, side),
            (len(self.x), quantiles),
            (quantiles,),
            (quantiles,),
        ]:
            raise ValueError(f"arrays of shapes {', '.join(map(str, shapes))}")


def calibrate(normalised: FloatImages, poses: Poses, seed: int) -> Calibration:
    """Places, turns and glyphs of real images.

    Args:
        normalised: (N, 2, H, W) real images, see `background.Background.normalise`.
        poses: The scout's, of the same images.
        seed: Decides which of the surest characters are averaged.

    Raises:
        RunError: In some slot hardly any character was read surely: the scout knows too little.
    """
    sure = poses.probabilities.max(-1) > SURE_POSE
    if sure.sum(0).min() < FEWEST_EXAMPLES:
        raise RunError(
            f"expected at least {FEWEST_EXAMPLES} characters read surely in every slot, got "
            f"{sure.sum(0).tolist()}; train the scout longer (calibration.steps), widen the "
            "simulator's ranges, or set calibrate=false"
        )
    slots = range(poses.x.shape[1])
    return Calibration(
        glyphs=harvest_glyphs(normalised, poses, seed),
        x=np.stack([_quantiles(poses.x[sure[:, slot], slot]) for slot in slots]),
        y=_quantiles(poses.y[sure]),
        rotation=_quantiles(poses.rotation[sure]),
    )


def harvest_glyphs(normalised: FloatImages, poses: Poses, seed: int) -> GreyImages:
    """The mean upright glyph of every class, (K, S, S) ``uint8``; 0 where too few were sure.

    S is four fifths of the image's height, rounded down to an even number; the middle of a glyph is
    the place that poses tell. What a line hides of one character is taken from others. The
    characters are aligned with their mean first (congealing: Miller, Matsakis and Viola, CVPR
    2000), so poses may be off by some pixels and degrees, and some labels wrong.

    Args:
        normalised: (N, 2, H, W) real images, see `background.Background.normalise`.
        poses: The scout's, of the same images.
        seed: Decides which of the surest characters are averaged.
    """
    ink = (normalised[:, 0] + 1) * np.float32(0.5)
    visible = (1 - normalised[:, 1]) * np.float32(0.5)
    side = int(0.8 * ink.shape[1]) // 2 * 2
    classes = poses.probabilities.shape[2]
    glyphs = np.zeros((classes, side, side), np.uint8)
    for k in range(classes):
        examples = _surest(poses, k, np.random.default_rng([seed, k]))
        if len(examples) >= FEWEST_EXAMPLES:
            cuttings = [_Cutting(ink, visible, poses, n, slot, side) for n, slot in examples]
            glyphs[k] = _crisp(_align(cuttings, side))
    return glyphs


def glyph_sheet(glyphs: GreyImages, columns: int = 12) -> GreyImages:
    """A picture of all glyphs (K, S, S) in the order of the alphabet, twice as large."""
    missing = -len(glyphs) % columns
    padded = np.concatenate([glyphs, np.zeros((missing, *glyphs.shape[1:]), np.uint8)])
    rows = [np.hstack(list(padded[at : at + columns])) for at in range(0, len(padded), columns)]
    return np.asarray(cv2.resize(np.vstack(rows), None, fx=2, fy=2), np.uint8)


def _surest(poses: Poses, k: int, generator: np.random.Generator) -> Sequence[tuple[int, int]]:
    """(image, slot) of some characters that are surest of class k.

    Some of twice as many: the very surest are alike, as those in free places without overlap.
    """
    probability = poses.probabilities[:, :, k]
    order = np.argsort(-probability, axis=None, kind="stable")[: 2 * EXAMPLES]
    order = order[probability.reshape(-1)[order] > SUREST]
    chosen = generator.permutation(order)[:EXAMPLES]
    images, slots = np.unravel_index(chosen, probability.shape)
    return list(zip(images.tolist(), slots.tolist(), strict=True))


class _Cutting:
    """One character of a real image, to be cut out at a place and turn that are improved."""

    def __init__(
        self,
        ink: FloatImages,
        visible: FloatImages,
        poses: Poses,
        image: int,
        slot: int,
        side: int,
    ) -> None:
        self.ink, self.visible, self.side = ink[image], visible[image], side
        self.place = (float(poses.x[image, slot]), float(poses.y[image, slot]))
        self.pose = (0.0, 0.0, float(poses.rotation[image, slot]))
        self.cut()

    def cut(self) -> None:
        """Set ``pixels`` and ``weight``, (S, S) each, at the present pose."""
        self.pixels, self.weight = self._cut(self.pose)

    def improve(self, mean: Floats, window: Floats, fine: bool) -> float:
        """Take the neighbouring pose that fits the mean best; what misfit is left."""
        shifts, turns = _FINE_SHIFTS if fine else _SHIFTS
        best = self._misfit(self.pixels, self.weight, mean, window)
        dx, dy, turn = self.pose
        for pose in (
            *((dx + sx, dy + sy, turn) for sx, sy in shifts),
            *((dx, dy, turn + more) for more in turns),
        ):
            pixels, weight = self._cut(pose)
            misfit = self._misfit(pixels, weight, mean, window)
            if misfit < best:
                best, self.pose, self.pixels, self.weight = misfit, pose, pixels, weight
        return best

    def _cut(self, pose: tuple[float, float, float]) -> tuple[Floats, Floats]:
        dx, dy, rotation = pose
        turn = np.deg2rad(rotation)
        linear = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        # OpenCV counts from the middle of the first pixel, places from its corner.
        middle = np.array([self.side / 2 - 0.5 + dx, self.side / 2 - 0.5 + dy])
        offset = np.array(self.place) - 0.5 - linear @ middle
        matrix = np.column_stack([linear, offset])
        flags, size = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, (self.side, self.side)
        pixels = cv2.warpAffine(self.ink, matrix, size, flags=flags)
        weight = cv2.warpAffine(self.visible, matrix, size, flags=flags)
        return np.asarray(pixels, np.float32), np.asarray(weight, np.float32)

    @staticmethod
    def _misfit(pixels: Floats, weight: Floats, mean: Floats, window: Floats) -> float:
        seen = weight * window
        return float(((pixels - mean) ** 2 * seen).sum() / (seen.sum() + 1e-3))


def _align(cuttings: Sequence[_Cutting], side: int) -> Floats:
    """The mean of cuttings, each moved and turned until it fits the mean of all (congealing)."""
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    window = np.exp(-(rows**2 + columns**2) / (2 * (side / 3) ** 2)).astype(np.float32)
    kept = list(cuttings)
    mean = _mean(kept)
    for round_ in range(4):
        misfits = [
            [cutting.improve(mean, window, fine=round_ > 1) for _ in range(2)][-1]
            for cutting in cuttings
        ]
        # A third is left out: neighbours lie over them, or they are of another class.
        limit = np.quantile(misfits, 0.7)
        kept = [c for c, misfit in zip(cuttings, misfits, strict=True) if misfit <= limit]
        mean = _mean(kept)
    return mean


def _mean(cuttings: Sequence[_Cutting]) -> Floats:
    weight = np.sum([cutting.weight for cutting in cuttings], axis=0)
    ink = np.sum([cutting.pixels * cutting.weight for cutting in cuttings], axis=0)
    return np.asarray(ink / (weight + 1e-3), np.float32)


def _crisp(mean: Floats) -> GreyImages:
    """Coverage from a mean that is slightly blurred and has neighbours' traces around it."""
    coverage = np.clip((mean - 0.25) * 2, 0, 1) * 255
    return np.asarray(np.rint(coverage), np.uint8)


def _quantiles(values: Floats) -> Floats:
    return np.quantile(values, QUANTILES).astype(np.float32)
