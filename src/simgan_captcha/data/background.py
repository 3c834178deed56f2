"""The background that images share, and the normalised input of all networks.

The 2017 project binarised at a fixed threshold and averaged. That finds the lines and discards the
rest. Here the background is kept in grey: each pixel is its mean over the images that have no ink
near it. The simulator draws on it, and a mask marks the places where lines hide ink.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np

from simgan_captcha.atomic import read_arrays, write_arrays
from simgan_captcha.data.pictures import Pixels, luma
from simgan_captcha.data.settings import Lines
from simgan_captcha.errors import ImageError, RunError
from simgan_captcha.raster import blurred, dilated, disc
from simgan_captcha.types import FloatImages, GreyImages, Mask

ORIGINAL_THRESHOLD = 200
"""Ink threshold of the 2017 system: a higher grey level is ink."""

SEED_SHARED_FRACTION = 230 / 255
"""Line threshold of the 2017 system: a pixel that is ink in a larger share of images is a line."""

MINIMUM_CONTRAST = 32.0
"""Least contrast in grey levels that is normalised; below it, noise would be amplified."""

_SAMPLE = 4_000
_SURROUNDINGS = (9, 3, 1)
"""Diameters in pixels of the area around each ink pixel that is excluded from the background.

The first is about one JPEG block. Smaller ones are used where no image is free of ink that far."""
_NEAR = 1.0
"""Spread in pixels of the surroundings that fill in a pixel under a shared line."""
_LEAST_SEEN = 1e-3
"""Least weight of these surroundings; deep inside wide masks nothing is filled in."""
_ENOUGH_FREE = 8
_UNINKED = 80
"""Percentile away from the ink level that is background even where letters are frequent."""


def binarise(grey: GreyImages, threshold: int = ORIGINAL_THRESHOLD) -> Mask:
    """Binarise by the rule of the 2017 system: ink is above the threshold, or exactly 0.

    Args:
        grey: (H, W) or (N, H, W), ``uint8``.
        threshold: Grey level in [0, 255].

    Source: 0b01/SimGAN-Captcha, "Convert to black and white".
    """
    return np.asarray((grey > threshold) | (grey == 0))


def otsu_threshold(grey: GreyImages) -> int:
    """The grey level that best separates all pixels into two classes (Otsu 1979)."""
    return otsu_classes(grey)[0]


def otsu_classes(grey: GreyImages) -> tuple[int, float]:
    """The threshold of `otsu_threshold`, and the share of the variance between the two classes."""
    counts = np.sum([np.bincount(part.ravel(), minlength=256) for part in grey], 0)
    levels = np.arange(256.0)
    below, sums = counts.cumsum(dtype=np.float64), (counts * levels).cumsum()
    above = below[-1] - below
    apart = sums * below[-1] - sums[-1] * below  # distance of the means, times all three counts
    between = np.divide(apart**2, below * above, out=np.zeros(256), where=below * above > 0)
    best = int(between.argmax())
    total = below[-1] * float((counts * (levels * below[-1] - sums[-1]) ** 2).sum())
    return best, float(between[best] * below[-1] ** 2 / total) if total else 0.0


def shared_by_average(binary: Mask, fraction: float = SEED_SHARED_FRACTION) -> Mask:
    """Pixels (H, W) that are ink in more than ``fraction`` of the (N, H, W) images."""
    return np.asarray(binary.mean(axis=0) > fraction)


def shared_by_and(binary: Mask) -> Mask:
    """Pixels (H, W) that are ink in all of the (N, H, W) images. A single miss removes a pixel."""
    return np.asarray(binary.all(axis=0))


def per_pixel_percentile(grey: GreyImages, percentile: float) -> GreyImages:
    """A percentile in [0, 100] of each pixel over (N, H, W) images, (H, W)."""
    return np.percentile(grey, percentile, axis=0, method="nearest").astype(np.uint8)


def remove_thin_lines(grey: GreyImages, line_width: int, *, bright: bool = True) -> GreyImages:
    """Remove lines thinner than the strokes of letters from one image.

    A morphological opening (closing, for dark ink) with a disc wider than the lines removes
    everything that the disc does not fit into. Strokes must be at least 3 pixels wider than lines.

    Args:
        grey: (H, W), ``uint8``.
        line_width: Width of the lines in pixels, at least 1.
        bright: Whether lines and ink are brighter than the background.
    """
    import cv2

    operation = cv2.MORPH_OPEN if bright else cv2.MORPH_CLOSE
    return np.asarray(cv2.morphologyEx(grey, operation, line_disc(line_width)), np.uint8)


def line_disc(line_width: int) -> GreyImages:
    """A disc (D, D) of 0 and 1 that does not fit into lines of this width (at least 1 pixel)."""
    # One pixel more would still fit into slanted lines, because their steps make them wider. The
    # size is odd because OpenCV shifts the result of an even one.
    size = (line_width + 2) | 1
    reach = np.array(disc(size))[:, None]
    return np.asarray(np.abs(np.arange(size) - size // 2) <= reach, np.uint8)


@dataclass(frozen=True)
class Background:
    """The background that the images of one scheme share."""

    grey: GreyImages
    """(H, W): the picture behind the letters, including lines."""
    line_mask: Mask
    """(H, W): True where ink and background cannot be distinguished."""
    ink_level: float
    """The most frequent grey level of letters, 0 to 255."""
    encoding: Literal["relative", "binary"] = "relative"
    """``relative``: ink relative to the background; ``binary``: the 2017 system's threshold."""
    line_removal_width: int = 0
    """Width in pixels of lines that are removed from each image first; 0 removes none."""

    def normalise(self, images: GreyImages) -> FloatImages:
        """Encode real or synthetic images as network input.

        Args:
            images: (N, H, W), ``uint8``.

        Returns:
            (N, 2, H, W) in [-1, 1]: ink (-1 background, 1 full ink), line mask (-1 free, 1 line).

        Raises:
            ImageError: The size of the images differs from that of the background.
        """
        if images.ndim != 3 or images.shape[1:] != self.grey.shape:
            raise ImageError(
                f"expected images of shape (N, {self.grey.shape[0]}, {self.grey.shape[1]}), "
                f"got {images.shape}; this background belongs to another scheme"
            )
        if self.line_removal_width:
            images = _without_thin_lines(images, self.line_removal_width, bright=self.bright_ink)
        channels = np.empty((len(images), 2, *self.grey.shape), np.float32)
        if self.encoding == "binary":
            # Level 0 is not ink here: it is the background of the 2017 generator's binary images.
            channels[:, 0] = np.where(images > ORIGINAL_THRESHOLD, 1.0, -1.0)
        else:
            offset, gain = self.offset_and_gain()
            np.multiply(images, gain, out=channels[:, 0])
            channels[:, 0] += offset
            np.clip(channels[:, 0], -1.0, 1.0, out=channels[:, 0])
        channels[:, 1] = np.where(self.line_mask, 1.0, -1.0)
        return channels

    def cleared(self, images: GreyImages) -> GreyImages:
        """Images without the shared picture: black letters on white.

        Nothing shows how much ink i lies under the shared lines. Those pixels get the mean of their
        surroundings, so that strokes go on across a line (normalised convolution, Knutsson and
        Westin 1993). With f = 1 off the lines and 0 on them, it is blur(f i) / blur(f).

        Args:
            images: (N, H, W), ``uint8``.

        Returns:
            (N, H, W), ``uint8``.

        Raises:
            ImageError: The size of the images differs from that of the background.
        """
        ink = self.normalise(images)[:, 0]
        free = (~self.line_mask).astype(np.float32)
        # Counted from the background, which is -1.
        seen = blurred(((ink + 1) * free).transpose(1, 2, 0), _NEAR).transpose(2, 0, 1)
        filled = seen / np.maximum(blurred(free, _NEAR), _LEAST_SEEN) - 1
        white = (1.0 - np.where(self.line_mask, filled, ink)) * 127.5
        return np.asarray(np.rint(white.clip(0, 255)), np.uint8)

    @property
    def bright_ink(self) -> bool:
        """Whether ink is brighter than most of the background."""
        return bool(self.ink_level >= np.median(self.grey))

    def offset_and_gain(self) -> tuple[FloatImages, FloatImages]:
        """Two arrays (H, W) such that ink = grey * gain + offset, before clipping to [-1, 1]."""
        contrast = self.ink_level - self.grey.astype(np.float32)
        sign = np.where(contrast < 0, -1.0, 1.0)
        gain = (2.0 * sign / np.maximum(np.abs(contrast), MINIMUM_CONTRAST)).astype(np.float32)
        return (-1.0 - self.grey * gain).astype(np.float32), gain

    def save(self, path: Path) -> None:
        """Write the background as an .npz file of plain arrays."""
        write_arrays(path, {f.name: getattr(self, f.name) for f in fields(self)})

    @staticmethod
    def load(path: Path) -> "Background":
        """Read a file that `save` wrote.

        Raises:
            RunError: The file is missing or damaged.
        """
        try:
            arrays = read_arrays(path)
            grey, line_mask = arrays["grey"], arrays["line_mask"]
            ink_level, encoding = float(arrays["ink_level"]), str(arrays["encoding"])
            line_removal_width = int(arrays["line_removal_width"])
            if (grey.dtype.name, line_mask.dtype.name) != ("uint8", "bool"):
                raise ValueError(f"arrays of {grey.dtype} and {line_mask.dtype}")
            if grey.ndim != 2 or grey.shape != line_mask.shape:
                raise ValueError(f"arrays of shapes {grey.shape} and {line_mask.shape}")
            return Background(
                grey,
                line_mask,
                ink_level,
                "binary" if encoding == "binary" else "relative",
                line_removal_width,
            )
        except Exception as error:  # zipfile, zlib and numpy raise many types for damaged files
            raise RunError(
                f"expected a background at {path}, could not read it ({error}); "
                "delete its folder and run again"
            ) from None


def estimate_background(
    images: GreyImages,
    encoding: Literal["relative", "binary"] = "relative",
    lines: Lines = "contrast",
    line_removal_width: int = 0,
) -> Background:
    """Estimate the shared background, the ink level and the line mask from unlabelled images.

    Args:
        images: (N, H, W), ``uint8``; some hundreds are enough, and at most 4,000 are used.
        encoding: Encoding of `Background.normalise`.
        lines: Method of finding shared lines: low contrast between ink and background
            (``contrast``), or binarised ink on average (``average``) or in all images (``and``).
        line_removal_width: Width in pixels of lines that differ per image, see
            `remove_thin_lines`; 0 for shared lines.

    Raises:
        ImageError: Fewer than two images.
    """
    if len(images) < 2:
        raise ImageError(
            f"expected at least 2 images to compare, got {len(images)}; download more captchas"
        )
    sample = images[:: math.ceil(len(images) / _SAMPLE)]
    grey = _shared_picture(sample)
    ink_level = _ink_level(sample, grey)
    if line_removal_width:
        # The removal needs the polarity of the ink.
        bright = bool(ink_level >= np.median(grey))
        sample = _without_thin_lines(sample, line_removal_width, bright=bright)
        grey = _shared_picture(sample)
        ink_level = _ink_level(sample, grey)
    if lines == "average":
        line_mask = shared_by_average(binarise(sample))
    elif lines == "and":
        line_mask = shared_by_and(binarise(sample))
    else:
        contrast = np.abs(ink_level - grey.astype(np.float64))
        line_mask = contrast < 0.5 * np.median(contrast)
    return Background(grey, line_mask, ink_level, encoding, line_removal_width)


def plain_background(
    height: int,
    width: int,
    ink_level: float,
    encoding: Literal["relative", "binary"] = "relative",
    line_removal_width: int = 0,
) -> Background:
    """The black background of images from `foreground.ink_on_black`."""
    black = np.zeros((height, width), np.uint8)
    return Background(black, black > 0, ink_level, encoding, line_removal_width)


def without_background(pictures: Sequence[Pixels], background: Background) -> list[Pixels]:
    """Pictures (H, W, 3) without the picture that they share, in grey, see `Background.cleared`.

    The generalist, which has never seen the shared picture, reads them better.
    """
    cleared = background.cleared(np.stack([luma(picture) for picture in pictures]))
    return [np.repeat(picture[:, :, None], 3, axis=2) for picture in cleared]


def _without_thin_lines(images: GreyImages, line_width: int, *, bright: bool) -> GreyImages:
    return np.stack([remove_thin_lines(image, line_width, bright=bright) for image in images])


def _shared_picture(images: GreyImages) -> GreyImages:
    """Estimate the picture (H, W) behind the letters of images (N, H, W)."""
    median = per_pixel_percentile(images, 50)
    found, enough = _mean_without_ink(images, median, _SURROUNDINGS[0])
    grey = np.where(enough, found, median)
    # Where most images have a letter, the median is the level of the letter.
    bright = _ink_level(images, grey) >= np.median(grey)
    bare = per_pixel_percentile(images, 100 - _UNINKED if bright else _UNINKED)
    known = enough & (_difference(bare, grey) < MINIMUM_CONTRAST)
    grey = np.where(known, grey, bare)
    if known.all():
        return grey
    for surroundings in _SURROUNDINGS[1:]:
        found, enough = _mean_without_ink(images, grey, surroundings)
        grey = np.where(enough & ~known, found, grey)
        known = known | enough
    return grey


def _mean_without_ink(
    images: GreyImages, background: GreyImages, surroundings: int
) -> tuple[GreyImages, Mask]:
    """Mean of each pixel over the images without ink near it, and whether these are enough.

    The plain median is biased where letters are frequent, and JPEG ringing reaches some pixels
    beyond a letter. Excluding the surroundings of each letter avoids both.

    Args:
        images: (N, H, W).
        background: (H, W) first estimate; ink is what differs from it.
        surroundings: Diameter in pixels of the excluded area.
    """
    difference = _difference(images, background)
    threshold = otsu_threshold(difference)
    area = disc(surroundings)
    total = np.zeros(background.shape, np.float64)
    count = np.zeros(background.shape, np.int64)
    for image, differs in zip(images, difference > threshold, strict=True):
        free = ~dilated(differs, area)
        total[free] += image[free]
        count[free] += 1
    return np.rint(total / np.maximum(count, 1)).astype(np.uint8), count >= _ENOUGH_FREE


def _difference(one: GreyImages, other: GreyImages) -> GreyImages:
    return np.maximum(one, other) - np.minimum(one, other)


def _ink_level(images: GreyImages, background: GreyImages) -> float:
    """The most frequent level of pixels that differ from the background by Otsu's threshold."""
    difference = _difference(images, background)
    ink = images[difference > otsu_threshold(difference)]
    if not len(ink):
        raise ImageError("expected ink that differs between images, got identical images")
    counts = np.bincount(ink, minlength=256).astype(np.float64)
    return float(np.convolve(counts, np.ones(5), mode="same").argmax())
