"""Classes and poses of the characters in images."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from simgan_captcha.simulator.pose import PLACED, POSE
from simgan_captcha.types import Floats


@dataclass(frozen=True)
class Poses:
    """Predicted classes and poses of N images with L characters of K classes."""

    probabilities: Floats
    """(N, L, K); the last class is the empty slot, if the scheme has one."""
    x: Floats
    """(N, L) pixels from the left to the centre of the character."""
    y: Floats
    """(N, L) pixels from the top to the centre of the character."""
    rotation: Floats
    """(N, L) degrees, counter-clockwise."""
    form: Floats | None = None
    """(N, L, 6) values of the form, see `POSE`; None stands for zeros."""
    blank: int | None = None
    """Class of an empty slot, see `scheme.Scheme.blank`. It has no glyph."""
    min_length: int = 1
    """Number of characters in the shortest text, if slots may be empty."""

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """The likeliest classes (N, L)."""
        return np.asarray(self.probabilities.argmax(-1))

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """Mask (N, L) of slots with a character."""
        if self.blank is None:
            return np.ones(self.x.shape, np.bool_)
        return np.asarray(self.ids != self.blank)

    @property
    def possible(self) -> npt.NDArray[np.bool_]:
        """Mask (N,) of images with enough characters and no gap between them."""
        present = self.present
        gapless = (present[:, :-1] >= present[:, 1:]).all(1)
        return np.asarray(gapless & present[:, : self.min_length].all(1))

    @property
    def places(self) -> Floats:
        """The poses (N, L, 9), see `POSE`."""
        placed = np.stack([self.x, self.y, self.rotation], -1, dtype=np.float32)
        known = (*placed.shape[:-1], len(POSE) - PLACED)
        form = np.zeros(known, np.float32) if self.form is None else self.form
        return np.concatenate([placed, form], -1, dtype=np.float32)

    def at(self, places: Floats) -> "Poses":
        """The same characters with other poses (N, L, 9)."""
        x, y, rotation = np.moveaxis(places[..., :PLACED], -1, 0)
        return replace(self, x=x, y=y, rotation=rotation, form=places[..., PLACED:])

    def renamed(self, names: Mapping[int, int]) -> "Poses":
        """Rename classes, all in one step; other classes stay."""
        probabilities = self.probabilities.copy()
        of_each = {k: self.ids == k for k in names}
        for k, read in of_each.items():
            probabilities[read, k] = 0
        for k, read in of_each.items():
            probabilities[read, names[k]] += self.probabilities[read, k]
        return replace(self, probabilities=probabilities)
