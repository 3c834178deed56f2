"""What all images share, and the normalised input that every network sees.

The 2017 project binarised at a fixed threshold and averaged, which finds the lines and throws the
rest away. Here the shared picture is kept in grey (the mean of every pixel over images that have no
ink near it), so that the simulator can draw on it, and the network is told where lines hide ink.
"""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from simgan_captcha.atomic import read_arrays, write_arrays
from simgan_captcha.errors import ImageError, RunError
from simgan_captcha.types import FloatImages, GreyImages, Mask

ORIGINAL_THRESHOLD = 200
"""The original's rule: a grey level above this is ink."""

SEED_SHARED_FRACTION = 230 / 255
"""The original's rule: a pixel that is ink in more of the images than this is a line."""

MINIMUM_CONTRAST = 32.0
"""Grey levels; where ink and background are closer, noise would be amplified rather than ink."""

_SAMPLE = 4_000
_SURROUNDINGS = (9, 3, 1)
"""Pixels: a JPEG block around every ink pixel is left out of the background; less where letters
stand so close to each other in all images that no image is free of them that far."""
_ENOUGH_FREE = 8
_UNINKED = 80
"""Percentile, counted away from the ink, that is background even where letters mostly stand."""


def binarise(grey: GreyImages, threshold: int = ORIGINAL_THRESHOLD) -> Mask:
    """Ink by the original's rule: above the threshold, or exactly 0 (its odd case, kept).

    Args:
        grey: (H, W) or (N, H, W), ``uint8``.
        threshold: Grey level in [0, 255].

    Source: 0b01/SimGAN-Captcha, "Convert to black and white".
    """
    return np.asarray((grey > threshold) | (grey == 0))


def otsu_threshold(grey: GreyImages) -> int:
    """The grey level that best splits all pixels in two (Otsu 1979), by OpenCV."""
    level, _ = cv2.threshold(grey.reshape(1, -1), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return int(level)


def shared_by_average(binary: Mask, fraction: float = SEED_SHARED_FRACTION) -> Mask:
    """Pixels (H, W) that are ink in more than ``fraction`` of the (N, H, W) images."""
    return np.asarray(binary.mean(axis=0) > fraction)


def shared_by_and(binary: Mask) -> Mask:
    """Pixels (H, W) that are ink in every one of the (N, H, W) images: exact, but unforgiving."""
    return np.asarray(binary.all(axis=0))


def per_pixel_percentile(grey: GreyImages, percentile: float) -> GreyImages:
    """A percentile in [0, 100] of each pixel over (N, H, W) images, (H, W)."""
    return np.percentile(grey, percentile, axis=0, method="nearest").astype(np.uint8)


def remove_thin_lines(grey: GreyImages, line_width: int, *, bright: bool = True) -> GreyImages:
    """One image without lines thinner than letters' strokes, for schemes whose lines vary.

    A morphological opening (closing, for dark ink) with a disc wider than the lines takes away
    whatever the disc does not fit into. Letters' strokes must be wider by 3 pixels or more.

    Args:
        grey: (H, W), ``uint8``.
        line_width: Width of the lines in pixels, at least 1.
        bright: Whether lines and ink are brighter than the background.
    """
    operation = cv2.MORPH_OPEN if bright else cv2.MORPH_CLOSE
    return np.asarray(cv2.morphologyEx(grey, operation, line_disc(line_width)), np.uint8)


def line_disc(line_width: int) -> GreyImages:
    """(D, D) of 0 and 1: what lines so many pixels wide, at least 1, have no room for."""
    # A disc of one pixel more would still fit into slanted lines, whose steps make them wider. An
    # odd size, for OpenCV shifts what an even one opens.
    size = (line_width + 2) | 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)), np.uint8)


Lines = Literal["contrast", "average", "and"]
"""How shared lines are found, see `estimate_background`."""


@dataclass(frozen=True)
class Background:
    """What the images of one scheme share."""

    grey: GreyImages
    """(H, W): the picture under the letters, lines included."""
    line_mask: Mask
    """(H, W): where ink could not be told from the background."""
    ink_level: float
    """The commonest grey level of letters, 0 to 255."""
    encoding: Literal["relative", "binary"] = "relative"
    """``relative``: ink against the background; ``binary``: the original's threshold, lines in."""
    removed_lines: int = 0
    """Lines up to so many pixels wide are taken out of every image first; 0 takes none."""

    def normalise(self, images: GreyImages) -> FloatImages:
        """What networks see: real and synthetic images go through this same encoding.

        Args:
            images: (N, H, W), ``uint8``.

        Returns:
            (N, 2, H, W) in [-1, 1]: ink (-1 background, 1 full ink), line mask (-1 free, 1 line).

        Raises:
            ImageError: The images have another size than the background.
        """
        if images.ndim != 3 or images.shape[1:] != self.grey.shape:
            raise ImageError(
                f"expected images of shape (N, {self.grey.shape[0]}, {self.grey.shape[1]}), "
                f"got {images.shape}; this background belongs to another scheme"
            )
        if self.removed_lines:
            images = _without_thin_lines(images, self.removed_lines, bright=self.bright_ink)
        channels = np.empty((len(images), 2, *self.grey.shape), np.float32)
        if self.encoding == "binary":
            # Without the rule's odd case: 0 is the ground of the original's own binary images.
            channels[:, 0] = np.where(images > ORIGINAL_THRESHOLD, 1.0, -1.0)
        else:
            offset, gain = self.offset_and_gain()
            np.multiply(images, gain, out=channels[:, 0])
            channels[:, 0] += offset
            np.clip(channels[:, 0], -1.0, 1.0, out=channels[:, 0])
        channels[:, 1] = np.where(self.line_mask, 1.0, -1.0)
        return channels

    @property
    def bright_ink(self) -> bool:
        """Whether ink is brighter than most of the background."""
        return bool(self.ink_level >= np.median(self.grey))

    def offset_and_gain(self) -> tuple[FloatImages, FloatImages]:
        """(H, W) each: ink is grey * gain + offset before it is cut to [-1, 1]."""
        contrast = self.ink_level - self.grey.astype(np.float32)
        sign = np.where(contrast < 0, -1.0, 1.0)
        gain = (2.0 * sign / np.maximum(np.abs(contrast), MINIMUM_CONTRAST)).astype(np.float32)
        return (-1.0 - self.grey * gain).astype(np.float32), gain

    def save(self, path: Path) -> None:
        """Write as an .npz of plain arrays."""
        write_arrays(path, {f.name: getattr(self, f.name) for f in fields(self)})

    @staticmethod
    def load(path: Path) -> "Background":
        """Read what `save` wrote.

        Raises:
            RunError: Missing or damaged.
        """
        try:
            arrays = read_arrays(path)
            grey, line_mask = arrays["grey"], arrays["line_mask"]
            ink_level, encoding = float(arrays["ink_level"]), str(arrays["encoding"])
            removed_lines = int(arrays["removed_lines"])
            if (grey.dtype.name, line_mask.dtype.name) != ("uint8", "bool"):
                raise ValueError(f"arrays of {grey.dtype} and {line_mask.dtype}")
            if grey.ndim != 2 or grey.shape != line_mask.shape:
                raise ValueError(f"arrays of shapes {grey.shape} and {line_mask.shape}")
            return Background(
                grey,
                line_mask,
                ink_level,
                "binary" if encoding == "binary" else "relative",
                removed_lines,
            )
        except Exception as error:  # whatever zipfile, zlib and numpy make of damaged bytes
            raise RunError(
                f"expected a background at {path}, could not read it ({error}); "
                "delete its folder and run again"
            ) from None


def estimate_background(
    images: GreyImages,
    encoding: Literal["relative", "binary"] = "relative",
    lines: Lines = "contrast",
    removed_lines: int = 0,
) -> Background:
    """What unlabelled images share: background, ink level, and where lines hide ink.

    Args:
        images: (N, H, W), ``uint8``; some hundreds are enough, at most 4,000 are looked at.
        encoding: How `Background.normalise` shall encode.
        lines: How shared lines are found: where ink and background are alike (``contrast``), or
            where the original's threshold finds ink on average (``average``) or in all (``and``).
        removed_lines: For schemes whose lines differ per image: their width in pixels; letters'
            strokes must be wider by 3 or more, see `remove_thin_lines`. 0 for shared lines.

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
    if removed_lines:
        # Which way ink differs from the background had to be known first.
        bright = bool(ink_level >= np.median(grey))
        sample = _without_thin_lines(sample, removed_lines, bright=bright)
        grey = _shared_picture(sample)
        ink_level = _ink_level(sample, grey)
    if lines == "average":
        line_mask = shared_by_average(binarise(sample))
    elif lines == "and":
        line_mask = shared_by_and(binarise(sample))
    else:
        contrast = np.abs(ink_level - grey.astype(np.float64))
        line_mask = contrast < 0.5 * np.median(contrast)
    return Background(grey, line_mask, ink_level, encoding, removed_lines)


def plain_background(
    height: int,
    width: int,
    ink_level: float,
    encoding: Literal["relative", "binary"] = "relative",
    removed_lines: int = 0,
) -> Background:
    """Of images that show ink on black, see `foreground.ink_on_black`: nothing to estimate."""
    black = np.zeros((height, width), np.uint8)
    return Background(black, black > 0, ink_level, encoding, removed_lines)


def _without_thin_lines(images: GreyImages, line_width: int, *, bright: bool) -> GreyImages:
    return np.stack([remove_thin_lines(image, line_width, bright=bright) for image in images])


def _shared_picture(images: GreyImages) -> GreyImages:
    """The picture (H, W) under the letters of images (N, H, W)."""
    median = per_pixel_percentile(images, 50)
    found, enough = _mean_beside_ink(images, median, _SURROUNDINGS[0])
    grey = np.where(enough, found, median)
    # Where letters stand in most images, the median is theirs.
    bright = _ink_level(images, grey) >= np.median(grey)
    bare = per_pixel_percentile(images, 100 - _UNINKED if bright else _UNINKED)
    known = enough & (cv2.absdiff(bare, grey) < MINIMUM_CONTRAST)
    grey = np.where(known, grey, bare)
    if known.all():
        return grey
    for surroundings in _SURROUNDINGS[1:]:
        found, enough = _mean_beside_ink(images, grey, surroundings)
        grey = np.where(enough & ~known, found, grey)
        known = known | enough
    return grey


def _mean_beside_ink(
    images: GreyImages, background: GreyImages, surroundings: int
) -> tuple[GreyImages, Mask]:
    """Mean of each pixel over the images that have no ink near it, and whether they are enough.

    The median alone is hazy where letters are frequent, and codec ringing around a letter reaches
    some pixels beyond it; both go when every letter's surroundings are left out.

    Args:
        images: (N, H, W).
        background: (H, W), about; what differs from it is ink.
        surroundings: Pixels across what is left out.
    """
    difference = cv2.absdiff(images, np.broadcast_to(background, images.shape))
    threshold = otsu_threshold(difference)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (surroundings, surroundings))
    total = np.zeros(background.shape, np.float64)
    count = np.zeros(background.shape, np.int64)
    for image, differs in zip(images, difference > threshold, strict=True):
        free = cv2.dilate(differs.astype(np.uint8), disc) == 0
        total[free] += image[free]
        count[free] += 1
    return np.rint(total / np.maximum(count, 1)).astype(np.uint8), count >= _ENOUGH_FREE


def _ink_level(images: GreyImages, background: GreyImages) -> float:
    """The commonest level among pixels that differ from the background more than Otsu's split."""
    difference = cv2.absdiff(images, np.broadcast_to(background, images.shape))
    ink = images[difference > otsu_threshold(difference)]
    if not len(ink):
        raise ImageError("expected ink that differs between images, got images that are all alike")
    counts = np.bincount(ink, minlength=256).astype(np.float64)
    return float(np.convolve(counts, np.ones(5), mode="same").argmax())
