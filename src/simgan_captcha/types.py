"""Types that many modules use."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

GreyImages = npt.NDArray[np.uint8]
"""Grey levels (N, H, W) or (H, W), from 0 (black) to 255 (white)."""

FloatImages = npt.NDArray[np.float32]
"""Inputs of networks (N, 2, H, W), see `data.background.Background.normalise`."""

Mask = npt.NDArray[np.bool_]
"""Boolean masks of pixels (H, W) or (N, H, W)."""

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
"""Class ids or other integers."""

OnStep = Callable[[int, int, dict[str, float]], None]
"""``on_step(step, steps, figures)`` reports the progress of a training or of a stage."""
