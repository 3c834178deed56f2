"""Turns any colour image into what the generalist's network sees. Holds no torch.

The network sees an image of 40 rows in four channels relative to the image's median colour b. So
dark and light inks look the same, and a coloured line differs from a letter:

    d = rgb - b;  s = max(98th percentile of |d|, 24)
    channels: |d| / s, luma(d) / s, (d_red - d_green) / s, (d_blue - (d_red + d_green) / 2) / s

where |d| is the Euclidean norm over the three colours, divided by the square root of 3.
"""

import numpy as np
import numpy.typing as npt

from simgan_captcha.raster import resized

HEIGHT = 40
"""Rows of the network's input."""
STRIDE = 4
"""Input columns to one column of the network's output."""
MOST_COLUMNS = 400
"""Wider images are squeezed."""
CHANNELS = 4
_LEAST_SCALE = 24.0
_OF_COLOURS = np.array([[0.299, 0.587, 0.114], [1, -1, 0], [-0.5, -0.5, 1]], np.float32)
"""Luma and the two differences of colours, of red, green and blue."""


def input_width(height: int, width: int, most: int = MOST_COLUMNS) -> int:
    """Columns of the network's input for an image: its width at 40 rows, a multiple of 4."""
    scaled = width * HEIGHT / height
    return int(min(most, max(4 * STRIDE, STRIDE * round(scaled / STRIDE))))


def features(image: npt.NDArray[np.uint8], width: int | None = None) -> npt.NDArray[np.float32]:
    """The network's input for one image.

    Args:
        image: (H, W, 3), ``uint8``, RGB.
        width: Columns to scale to; None: see `input_width`.

    Returns:
        (4, 40, width), float32, about -3 to 3.
    """
    H, W, _ = image.shape
    width = input_width(H, W) if width is None else width
    planes = np.ascontiguousarray(resized(image, width, HEIGHT).transpose(2, 0, 1)).reshape(3, -1)
    middle = planes.shape[1] // 2  # of an even number
    medians = np.partition(planes, (middle - 1, middle))[:, middle - 1 : middle + 1]
    d = planes - medians.mean(1, dtype=np.float32)[:, None]
    norm = np.sqrt((d * d).sum(0) / 3)
    channels = np.concatenate([norm[None], _OF_COLOURS @ d]).reshape(CHANNELS, HEIGHT, width)
    scale = max(float(np.percentile(norm, 98)), _LEAST_SCALE)
    return np.asarray(channels / scale, np.float32)
