"""What a scout says of images: which characters, where, how turned."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


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
        """(N, L, 3): x, y and rotation."""
        return np.stack([self.x, self.y, self.rotation], -1, dtype=np.float32)
