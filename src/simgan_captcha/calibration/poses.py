"""What a scout says of images: which characters, where, how turned."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Poses:
    """Of N images of L characters out of K classes."""

    probabilities: Floats
    """(N, L, K)."""
    x: Floats
    """(N, L) pixels; where the middle of the character lies, likewise ``y``."""
    y: Floats
    rotation: Floats
    """(N, L) degrees, counter-clockwise."""

    @property
    def places(self) -> Floats:
        """(N, L, 3): x, y and rotation."""
        return np.stack([self.x, self.y, self.rotation], -1, dtype=np.float32)
