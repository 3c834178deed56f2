"""What the simulator shall draw: the glyphs, places and rendering that real images were found with.

Shapes: N images, L characters, K classes, G side of a glyph.
"""

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from simgan_captcha.atomic import read_arrays, write_arrays
from simgan_captcha.errors import RunError
from simgan_captcha.simulator.clutter import CLUTTER
from simgan_captcha.simulator.pose import PLACED, POSE
from simgan_captcha.simulator.spacing import (
    letter_widths,
    moved_by_widths,
    wider_than_usual,
)
from simgan_captcha.types import Floats, GreyImages

RENDERING = ("ink", "blur", "nearest", "noise", "jpeg_quality", "contrast")
"""What of an image's rendering is calibrated; each means what it means in `SimulatorSettings`, but
for ``ink``, which is a grey level, and ``contrast``, see `Calibration.drawn_glyphs`."""

UNKNOWN_CLUTTER = np.full(len(CLUTTER), np.nan, np.float32)

GLYPH_SCALE = 2
"""Pixels of a found glyph to one of an image."""

_REPEATED = 3
_JITTER = np.array(
    [0.5, 0.5, 1.5, 0.03, 0.03, 0.03, 0.1, 0.1, 0.1], np.float32
)  # of each of `POSE`: about how far poses are uncertain


@dataclass(frozen=True)
class Calibration:
    """Distributions to draw from."""

    glyphs: GreyImages
    """(K, G, G) coverage of each class's glyph, 0 none to 255 full, `GLYPH_SCALE` to an image's
    pixel; all 0 where none was found, and of the class of no character."""
    poses: Floats
    """(N, L, 9) where the characters of N real images lie, see `POSE`; as classes would lie that
    are usual, and as wide as most. NaN where no character stands. Forms are 0 where all have
    one."""
    offset: Floats
    """(K, 9) how far a class lies from the usual. Of forms 0."""
    following: Floats
    """(L, L, L) of texts of 1 to L letters, by how many pixels each stands further right for each
    pixel that a letter of the text is wider, see `spacing`."""
    rendering: Floats
    """(6,) values of `RENDERING`."""
    clutter: Floats
    """(9,) values of `clutter.CLUTTER`; NaN of what the scheme has not, or nothing is known of."""

    @property
    def found(self) -> npt.NDArray[np.bool_]:
        """(K,) whether a class has a glyph."""
        return np.asarray(self.glyphs.any(axis=(1, 2)))

    @property
    def formed(self) -> npt.NDArray[np.bool_]:
        """(6,) which values of its form differ from one character to the next."""
        return np.asarray((np.nan_to_num(self.poses[..., PLACED:]) != 0).any((0, 1)))

    def draw_places(
        self, generator: np.random.Generator, ids: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], Floats]:
        """Characters (B, L) and their poses, (B, L, 9), as they lie in real images.

        Each image takes all its places from one real image, and moves them a little: however
        letters hang together there (turned ones standing further right, neighbours that overlap,
        all on one line, how many they are), they do here: where there is none, none is drawn.
        """
        of_lengths = self._images_of_lengths
        taken = self.poses[of_lengths[generator.integers(len(of_lengths), size=len(ids))]]
        moved = generator.standard_normal(taken.shape, np.float32) * _JITTER
        moved[..., PLACED:] *= taken[..., PLACED:] != 0
        present = ~np.isnan(taken[..., 0])
        ids = np.where(present, ids, len(self.glyphs) - 1)
        places = taken + moved
        wider = wider_than_usual(self._widths, ids, places)
        places[..., 0] += moved_by_widths(self.following, wider, present)
        return ids, places + self.offset[ids]

    def as_usual(
        self, places: Floats, ids: npt.NDArray[np.int64], present: npt.NDArray[np.bool_]
    ) -> Floats:
        """(N, L, 9) places of characters (N, L) as classes would lie that are usual, as `poses` do.

        Args:
            places: (N, L, 9).
            ids: (N, L) the characters.
            present: (N, L) those that are there.
        """
        usual = places - self.offset[ids]
        wider = wider_than_usual(self._widths, ids, places)
        usual[..., 0] -= moved_by_widths(self.following, wider, present)
        return np.asarray(usual, np.float32)

    @cached_property
    def _widths(self) -> Floats:
        return widths_in_image(self.glyphs)

    @cached_property
    def _images_of_lengths(self) -> npt.NDArray[np.int64]:
        """Numbers of real images, those of rarer lengths repeated until all are as frequent.

        Scouts overlook letters that overlap, so they find longer texts more seldom than there are;
        who learned from texts as they find them would overlook more. A length that hardly any image
        has may be an error, and is repeated no more than `_REPEATED` times.
        """
        lengths = (~np.isnan(self.poses[..., 0])).sum(1)
        images = [np.flatnonzero(lengths == length) for length in np.unique(lengths)]
        most = max(map(len, images))
        return np.concatenate([np.resize(n, min(most, _REPEATED * len(n))) for n in images])

    def drawn_glyphs(self) -> GreyImages:
        """(K, G, G) glyphs with their edges made steeper about half coverage by ``contrast``.

        A shape that explains many images is their average, and so is softer than each of them.
        """
        return self._steeper(self.glyphs)

    def drawn_rasters(self) -> list[GreyImages]:
        """(K) glyphs of an image's own resolution, each (h, w) about its middle, steepened alike.

        A program that turns letters without interpolation has drawn them upright on whole pixels
        before, so a gap of one pixel stays one pixel wide wherever it is turned to; sampled from
        finer glyphs it would come and go. Of the places the pixels may lie at, the one that leaves
        most contrast is taken to be theirs.
        """
        return [self._steeper(_raster(glyph)) for glyph in self.glyphs]

    def _steeper(self, coverage: npt.NDArray[np.generic]) -> GreyImages:
        contrast = self.rendering[RENDERING.index("contrast")]
        steeper = (coverage.astype(np.float32) - 127.5) * contrast + 127.5
        return np.asarray(np.rint(steeper.clip(0, 255)), np.uint8)

    def save(self, path: Path) -> None:
        """Write as an .npz of plain arrays."""
        write_arrays(path, {f.name: getattr(self, f.name) for f in fields(self)})

    @staticmethod
    def load(path: Path) -> "Calibration":
        """Read what `save` wrote.

        Raises:
            RunError: Missing or damaged.
        """
        try:
            arrays = read_arrays(path)
            calibration = Calibration(*(arrays[f.name] for f in fields(Calibration)))
            calibration._require_whole()
            return calibration
        except Exception as error:  # whatever zipfile, zlib and numpy make of damaged bytes
            raise RunError(
                f"expected a calibration at {path}, could not read it ({error}); "
                "delete its folder and run again"
            ) from None

    def _require_whole(self) -> None:
        arrays = [getattr(self, f.name) for f in fields(self)]
        dtypes = [array.dtype.name for array in arrays]
        if dtypes != ["uint8"] + ["float32"] * 5:
            raise ValueError(f"arrays of {', '.join(dtypes)}")
        classes, side, slots = len(self.glyphs), self.glyphs.shape[-1], self.poses.shape[1]
        shapes = [array.shape for array in arrays]
        if not self.poses.size or shapes != [
            (classes, side, side),
            (*self.poses.shape[:2], len(POSE)),
            (classes, len(POSE)),
            (slots, slots, slots),
            (len(RENDERING),),
            (len(CLUTTER),),
        ]:
            raise ValueError(f"arrays of shapes {', '.join(map(str, shapes))}")


def _raster(glyph: GreyImages) -> Floats:
    """(h, w) the glyph (G, G) in whole pixels of an image."""
    means = []
    for down, right in np.ndindex(GLYPH_SCALE, GLYPH_SCALE):
        padded = np.pad(glyph, ((down, down), (right, right))).astype(np.float32)
        rows, columns = (side // GLYPH_SCALE for side in padded.shape)
        cut = padded[: rows * GLYPH_SCALE, : columns * GLYPH_SCALE]
        means.append(cut.reshape(rows, GLYPH_SCALE, columns, GLYPH_SCALE).mean((1, 3)))
    return max(means, key=lambda mean: float(np.square(mean).sum()))


def widths_in_image(glyphs: GreyImages) -> Floats:
    """(K,) how many pixels of an image wide letters of (K, G, G) glyphs are."""
    return np.asarray(letter_widths(glyphs) / np.float32(GLYPH_SCALE))
