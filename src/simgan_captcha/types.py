"""Names for the arrays that many modules exchange."""

import numpy as np
import numpy.typing as npt

GreyImages = npt.NDArray[np.uint8]
"""(N, H, W) or (H, W) grey levels, 0 black to 255 white."""

FloatImages = npt.NDArray[np.float32]
"""(N, 2, H, W) what networks see, see `data.background.Background.normalise`."""

Mask = npt.NDArray[np.bool_]
"""(H, W) or (N, H, W) pixels that belong to something."""

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
"""Class ids, or other whole numbers."""
