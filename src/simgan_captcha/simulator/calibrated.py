"""The result of calibration, which the simulator draws from: glyphs, poses, rendering and clutter.

Shapes: N images, L characters, K classes, G side of a glyph.
"""

from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
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
"""Calibrated values of rendering, in order; see `SimulatorSettings` for their meaning. ``ink`` is a
grey level here, and ``contrast`` is explained in `Calibration.drawn_glyphs`."""

UNKNOWN_CLUTTER = np.full(len(CLUTTER), np.nan, np.float32)

GLYPH_SCALE = 2
"""Pixels of a calibrated glyph per pixel of an image."""

_REPEATED = 3
_JITTER = np.array(
    [0.5, 0.5, 1.5, 0.03, 0.03, 0.03, 0.1, 0.1, 0.1], np.float32
)  # for each value of `POSE`: its approximate uncertainty


@dataclass(frozen=True)
class Calibration:
    """Glyphs, poses and rendering values to draw from."""

    glyphs: GreyImages
    """(K, G, G) coverage of the glyph of each class, 0 to 255, with `GLYPH_SCALE` pixels per image
    pixel. It is 0 for classes without a glyph, and for the empty slot."""
    poses: Floats
    """(N, L, 9) poses of the characters of N real images, see `POSE`. The offset of each class and
    the effect of its width are removed. Empty slots are NaN. Forms that do not vary are 0."""
    offset: Floats
    """(K, 9) offset of each class from the mean pose; 0 for forms."""
    following: Floats
    """(L, L, L) spacing model for texts of 1 to L letters, see `spacing`. It gives the shift of
    each letter in pixels, per pixel of additional width of each letter of the text."""
    rendering: Floats
    """(6,) values in the order of `RENDERING`."""
    clutter: Floats
    """(9,) values in the order of `clutter.CLUTTER`; NaN for absent or unknown ones."""

    @property
    def found(self) -> npt.NDArray[np.bool_]:
        """Mask (K,) of classes with a glyph."""
        return np.asarray(self.glyphs.any(axis=(1, 2)))

    @property
    def formed(self) -> npt.NDArray[np.bool_]:
        """Mask (6,) of form values that differ between characters."""
        return np.asarray((np.nan_to_num(self.poses[..., PLACED:]) != 0).any((0, 1)))

    def draw_places(
        self, generator: np.random.Generator, ids: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], Floats]:
        """Draw poses (B, L, 9) of real images for the characters ``ids`` (B, L).

        Each image takes all its poses from one real image, with small random changes. Dependencies
        between letters therefore stay as they are: overlaps, a common baseline, and the number of
        letters. Empty slots get the class of no character.
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
        """Remove class offsets and the effect of widths from poses, see `poses`.

        Args:
            places: (N, L, 9) poses.
            ids: (N, L) classes.
            present: (N, L) mask of slots with a character.
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
        """Indices of real images, with rarer text lengths repeated until all are equally frequent.

        The bootstrap recognizer misses overlapping letters and so finds too few long texts. A
        recognizer trained on these lengths would miss more. A very rare length may be an error, so
        images are repeated at most `_REPEATED` times.
        """
        lengths = (~np.isnan(self.poses[..., 0])).sum(1)
        images = [np.flatnonzero(lengths == length) for length in np.unique(lengths)]
        most = max(map(len, images))
        return np.concatenate([np.resize(n, min(most, _REPEATED * len(n))) for n in images])

    def drawn_glyphs(self) -> GreyImages:
        """Glyphs (K, G, G) with steeper edges: 127.5 + contrast * (coverage - 127.5), clipped.

        A glyph that is fitted to many images is an average, and softer than each of them.
        """
        return self._steeper(self.glyphs)

    def drawn_rasters(self) -> list[GreyImages]:
        """K glyphs in image resolution, each (h, w) around its centre, with steeper edges.

        A generator that rotates letters without interpolation first draws them upright on whole
        pixels. A gap of one pixel then keeps its width in any rotation, unlike a gap that is
        sampled from a finer glyph. Of the possible pixel grids, the one with most contrast is used.
        """
        side = self.glyphs.shape[-1]
        return [self._steeper(_raster(glyph.tobytes(), side)) for glyph in self.glyphs]

    def _steeper(self, coverage: npt.NDArray[np.generic]) -> GreyImages:
        contrast = self.rendering[RENDERING.index("contrast")]
        steeper = (coverage.astype(np.float32) - 127.5) * contrast + 127.5
        return np.asarray(np.rint(steeper.clip(0, 255)), np.uint8)

    def save(self, path: Path) -> None:
        """Write the calibration as an .npz file of plain arrays."""
        write_arrays(path, {f.name: getattr(self, f.name) for f in fields(self)})

    @staticmethod
    def load(path: Path) -> "Calibration":
        """Read a file that `save` wrote.

        Raises:
            RunError: Missing or damaged.
        """
        try:
            arrays = read_arrays(path)
            calibration = Calibration(*(arrays[f.name] for f in fields(Calibration)))
            calibration._require_whole()
            return calibration
        except Exception as error:  # zipfile, zlib and numpy raise many types for damaged files
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


@lru_cache(maxsize=512)  # the fit of the rendering draws the same glyphs hundreds of times
def _raster(pixels: bytes, side: int) -> Floats:
    """A glyph (G, G), given by its pixels and G, in image resolution, (h, w)."""
    glyph, means = np.frombuffer(pixels, np.uint8).reshape(side, side), []
    for down, right in np.ndindex(GLYPH_SCALE, GLYPH_SCALE):
        padded = np.pad(glyph, ((down, down), (right, right))).astype(np.float32)
        rows, columns = (side // GLYPH_SCALE for side in padded.shape)
        cut = padded[: rows * GLYPH_SCALE, : columns * GLYPH_SCALE]
        means.append(cut.reshape(rows, GLYPH_SCALE, columns, GLYPH_SCALE).mean((1, 3)))
    return max(means, key=lambda mean: float(np.square(mean).sum()))


def widths_in_image(glyphs: GreyImages) -> Floats:
    """Widths (K,) of glyphs (K, G, G) in image pixels."""
    return np.asarray(letter_widths(glyphs) / np.float32(GLYPH_SCALE))
