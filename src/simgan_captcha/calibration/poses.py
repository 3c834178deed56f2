"""What is known of images: which characters stand where, how turned, and of which form."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from simgan_captcha.simulator.pose import PLACED, POSE
from simgan_captcha.types import Floats


@dataclass(frozen=True)
class Poses:
    """Of N images of L characters out of K classes."""

    probabilities: Floats
    """(N, L, K); of classes that may be absent, the last is that of no character."""
    x: Floats
    """(N, L) pixels; where the middle of the character lies, likewise ``y``."""
    y: Floats
    rotation: Floats
    """(N, L) degrees, counter-clockwise."""
    form: Floats | None = None
    """(N, L, 6) what comes after the turn, see `POSE`; None where they are not known: of all 0."""
    absent: int | None = None
    """Class of a slot that no character stands in, `scheme.Scheme.absent`. It has no shape."""
    shortest: int = 1
    """Characters of the shortest text, where slots may be empty."""

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """(N, L) the likeliest classes."""
        return np.asarray(self.probabilities.argmax(-1))

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """(N, L) whether a character stands there."""
        if self.absent is None:
            return np.ones(self.x.shape, np.bool_)
        return np.asarray(self.ids != self.absent)

    @property
    def possible(self) -> npt.NDArray[np.bool_]:
        """(N,) whether characters fill the first slots without a gap, and enough of them."""
        present = self.present
        gapless = (present[:, :-1] >= present[:, 1:]).all(1)
        return np.asarray(gapless & present[:, : self.shortest].all(1))

    @property
    def places(self) -> Floats:
        """(N, L, 9), see `POSE`."""
        placed = np.stack([self.x, self.y, self.rotation], -1, dtype=np.float32)
        known = (*placed.shape[:-1], len(POSE) - PLACED)
        form = np.zeros(known, np.float32) if self.form is None else self.form
        return np.concatenate([placed, form], -1, dtype=np.float32)

    def at(self, places: Floats) -> "Poses":
        """The same characters at other places (N, L, 9)."""
        x, y, rotation = np.moveaxis(places[..., :PLACED], -1, 0)
        return replace(self, x=x, y=y, rotation=rotation, form=places[..., PLACED:])

    def renamed(self, names: Mapping[int, int]) -> "Poses":
        """Characters read as some classes as those of others, all at once; all else stays."""
        probabilities = self.probabilities.copy()
        of_each = {k: self.ids == k for k in names}
        for k, read in of_each.items():
            probabilities[read, k] = 0
        for k, read in of_each.items():
            probabilities[read, names[k]] += self.probabilities[read, k]
        return replace(self, probabilities=probabilities)
