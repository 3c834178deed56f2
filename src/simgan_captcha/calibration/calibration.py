"""What the simulator shall draw: the glyphs, places and rendering that real images were found with.

Shapes: L characters, K classes, G side of a glyph.
"""

import io
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from simgan_captcha.atomic import write_bytes
from simgan_captcha.calibration.poses import Floats, Poses
from simgan_captcha.errors import RunError
from simgan_captcha.images import GreyImages

QUANTILES = np.linspace(0, 1, 101)

RENDERING = ("ink", "blur", "nearest", "noise", "jpeg_quality")
"""What of an image's rendering is calibrated; each means what it means in `SimulatorSettings`, but
for ``ink``, which is a grey level."""

GLYPH_SCALE = 2
"""Pixels of a found glyph to one of an image."""

FEWEST_CHARACTERS = 50
"""With fewer in a slot to learn from there is no calibration."""


@dataclass(frozen=True)
class Calibration:
    """Distributions to draw from."""

    glyphs: GreyImages
    """(K, G, G) coverage of each class's glyph, 0 none to 255 full, `GLYPH_SCALE` to an image's
    pixel; all 0 where none was found."""
    x: Floats
    """(L, 101) quantiles of each slot's place, pixels."""
    y: Floats
    """(101,) quantiles of all characters' heights, pixels from the top."""
    rotation: Floats
    """(101,) quantiles, degrees."""
    offset: Floats
    """(K, 3) pixels right and down and degrees that a class lies from the usual: a wide letter's
    middle lies further right where left edges are placed."""
    rendering: Floats
    """(5,) values of `RENDERING`."""

    @property
    def found(self) -> npt.NDArray[np.bool_]:
        """(K,) whether a class has a glyph."""
        return np.asarray(self.glyphs.any(axis=(1, 2)))

    def draw_places(
        self, generator: np.random.Generator, ids: npt.NDArray[np.int64]
    ) -> tuple[Floats, Floats, Floats]:
        """x, y and rotation, (N, L) each, of characters (N, L), distributed as in real images."""
        slots = range(len(self.x))
        along = generator.random((3, *ids.shape))
        x = np.stack([np.interp(along[0, :, s], QUANTILES, self.x[s]) for s in slots], 1)
        y = np.interp(along[1], QUANTILES, self.y)
        rotation = np.interp(along[2], QUANTILES, self.rotation)
        places = np.stack([x, y, rotation]) + np.moveaxis(self.offset[ids], -1, 0)
        x, y, rotation = places.astype(np.float32)
        return x, y, rotation

    def save(self, path: Path) -> None:
        """Write as an .npz of plain arrays."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **{f.name: getattr(self, f.name) for f in fields(self)})
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
        arrays = [getattr(self, f.name) for f in fields(self)]
        dtypes = [array.dtype.name for array in arrays]
        if dtypes != ["uint8"] + ["float32"] * 5:
            raise ValueError(f"arrays of {', '.join(dtypes)}")
        classes, side, quantiles = len(self.glyphs), self.glyphs.shape[-1], len(QUANTILES)
        shapes = [array.shape for array in arrays]
        if shapes != [
            (classes, side, side),
            (len(self.x), quantiles),
            (quantiles,),
            (quantiles,),
            (classes, 3),
            (len(RENDERING),),
        ]:
            raise ValueError(f"arrays of shapes {', '.join(map(str, shapes))}")


def glyph_sheet(glyphs: GreyImages, columns: int = 12) -> GreyImages:
    """A picture of all glyphs (K, G, G) in the order of the alphabet."""
    missing = -len(glyphs) % columns
    padded = np.concatenate([glyphs, np.zeros((missing, *glyphs.shape[1:]), np.uint8)])
    rows = [np.hstack(list(padded[at : at + columns])) for at in range(0, len(padded), columns)]
    return np.asarray(np.vstack(rows), np.uint8)


def calibrate(
    glyphs: Floats, poses: Poses, kept: npt.NDArray[np.bool_], rendering: Floats
) -> Calibration:
    """Distributions of what was found.

    Args:
        glyphs: (K, G, G) coverage, 0 to 1, as `glyph_fit.fit_glyphs` finds them.
        poses: Fitted, of N images.
        kept: (N, L) the characters whose poses count.
        rendering: (5,), as `rendering_fit.fit_rendering` finds it.

    Raises:
        RunError: Hardly any image counts: the scout knows too little.
    """
    if kept.sum(0).min() < FEWEST_CHARACTERS:
        raise RunError(
            f"expected at least {FEWEST_CHARACTERS} characters read surely in every slot, got "
            f"{kept.sum(0).tolist()}; train the scout longer (calibration.steps), widen the "
            "simulator's ranges, or set calibrate=false"
        )
    ids = poses.probabilities.argmax(-1)
    places = np.stack([poses.x, poses.y, poses.rotation], -1)
    slots = range(places.shape[1])
    apart = places - np.stack([np.median(places[kept[:, s], s], axis=0) for s in slots])
    offset = np.zeros((len(glyphs), 3), np.float32)
    for k in range(len(glyphs)):
        if glyphs[k].any():
            offset[k] = np.median(apart[kept & (ids == k)], axis=0)
    usual = places - offset[ids]
    return Calibration(
        glyphs=np.rint(glyphs * 255).astype(np.uint8),
        x=np.stack([_quantiles(usual[kept[:, s], s, 0]) for s in slots]),
        y=_quantiles(usual[kept, 1]),
        rotation=_quantiles(usual[kept, 2]),
        offset=offset,
        rendering=rendering.astype(np.float32),
    )


def _quantiles(values: Floats) -> Floats:
    # The outermost thousandths are misread characters that went astray.
    return np.quantile(values, 0.003 + 0.994 * QUANTILES).astype(np.float32)
