"""Weaknesses of the images themselves, which are found without a network."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simgan_captcha.data.background import otsu_classes
from simgan_captcha.data.images import decode_grey, decode_rgb, evenly
from simgan_captcha.errors import ImageError
from simgan_captcha.evaluation.audit.leaks import leak_findings
from simgan_captcha.evaluation.audit.texts import text_findings
from simgan_captcha.evaluation.audit.verdict import Finding, Severity, severity_of
from simgan_captcha.scheme import Scheme
from simgan_captcha.types import GreyImages

MOST_IMAGES = 5_000
"""Largest number of examined images. If there are more, the examined ones are evenly spaced."""

_MOST_PIXELS = 20_000_000
"""Largest total number of pixels of the compared images."""
_MOST_COMPARED = 200
_FEWEST_COMPARED = 20
"""Smallest number of images that are compared."""
_SAME = 8
"""Largest difference in grey levels, caused by JPEG, of pixels that count as the same."""
_IN_MOST = 0.8
"""Share of images in which a pixel of the background is the same. Pixels of text vary more."""
_PICTURE = 0.1
"""Share of pixels from which a shared background counts as a picture."""
_APART = 12
"""Smallest difference in grey levels between a pixel of a picture and the median of the image."""
_TWO_CLASSES = 0.85
"""Share of the variance between ink and ground in the total variance, from which they are two
classes."""
_IN_DOUBT = 0.2
"""Largest number of pixels in the middle third between ink and ground, per pixel of ink."""
_ONE_INK = 20
"""Largest standard deviation over images, in levels, of an ink with one colour."""

Encoded = tuple[str, bytes]
"""Name and encoded bytes of an image."""


@dataclass(frozen=True)
class Found:
    """Findings about images, and the number of examined images."""

    findings: list[Finding]
    images: int
    """Number of examined images."""
    of: int
    """Number of all images."""
    notes: list[str]
    """Sentences about omitted images and checks."""
    given_away: float
    """Share of texts that names or metadata reveal, in [0, 1]."""


def find_weaknesses(
    images: Sequence[Encoded],
    texts: Mapping[str, str] | None = None,
    scheme: Scheme | None = None,
    *,
    read_right: float = 1.0,
) -> Found:
    """Find weaknesses of images, of their names and of their texts.

    Args:
        images: Names and encoded bytes of the images, as the server sends them.
        texts: Texts of readings by image name. Without them, only pixels and files are examined.
        scheme: Scheme with alphabet and length, for the number of possible texts.
        read_right: Known or estimated share of correct texts. Below 0.5, texts are not examined,
            because their statistics depend more on the reader than on the captcha.
    """
    some = evenly(images, MOST_IMAGES)
    notes = []
    decoded: list[tuple[str, bytes, GreyImages]] = []
    for name, data in some:
        try:
            decoded.append((name, data, decode_grey(data)))
        except ImageError:
            continue
    if unreadable := len(some) - len(decoded):
        notes.append(f"{unreadable} of {len(some)} images cannot be read: left out.")
    readable = [(name, data) for name, data, _ in decoded]
    findings = leak_findings(readable, texts or {})
    given_away = max((finding.effect or 0.0 for finding in findings), default=0.0)
    findings += _repeated_images([(name, grey) for name, _, grey in decoded])
    findings += pixel_findings([data for _, data in readable])
    if texts is not None and scheme is not None:
        if read_right >= 0.5:
            findings += text_findings(list(texts.values()), scheme)
        else:
            notes.append(
                f"About {read_right:.0%} of the texts are read right: too few to tell repeated "
                "texts and uneven characters from errors of the reader."
            )
    return Found(findings, len(decoded), len(images), notes, given_away)


def _repeated_images(images: Sequence[tuple[str, GreyImages]]) -> list[Finding]:
    """Find images with identical pixels."""
    names: dict[bytes, list[str]] = {}
    for name, grey in images:
        digest = hashlib.sha256(repr(grey.shape).encode() + grey.tobytes()).digest()
        names.setdefault(digest, []).append(name)
    groups = sorted((group for group in names.values() if len(group) > 1), key=len, reverse=True)
    repeats = sum(len(group) - 1 for group in groups)
    if not repeats:
        return []
    share = repeats / len(images)
    return [
        Finding(
            "Images repeat",
            severity_of(share),
            f"{repeats} of {len(images)} images are pixel for pixel one of the others, as "
            f"{groups[0][0]} and {groups[0][1]}.",
            "Draw a new image for every request, and never serve one twice: a repeated image needs "
            "no reader, only a list of those that were solved.",
            effect=share,
        )
    ]


def pixel_findings(encoded: Sequence[bytes]) -> list[Finding]:
    """Find a shared background, and ink that one threshold separates.

    Args:
        encoded: Images that `open_picture` accepts.
    """
    if len(encoded) < _FEWEST_COMPARED:
        return []
    rgb: list[GreyImages] = []
    pixels = 0
    for data in evenly(encoded, _MOST_COMPARED):
        image = decode_rgb(data)
        pixels += image.shape[0] * image.shape[1]
        if pixels > _MOST_PIXELS and rgb:
            break
        rgb.append(image)
    return [*_shared_background(rgb), *_separable_ink(rgb)]


def _shared_background(rgb: Sequence[GreyImages]) -> list[Finding]:
    size, images = Counter(image.shape for image in rgb).most_common(1)[0]
    if images < _FEWEST_COMPARED:
        return []
    grey = np.stack([image.mean(-1) for image in rgb if image.shape == size])
    middle = np.median(grey, 0)
    # Ink may be at the same place in half of the images, but not in four fifths.
    same = (np.abs(grey - middle) <= _SAME).mean(0) >= _IN_MOST
    picture = same & (np.abs(middle - np.median(middle)) > _APART)
    if picture.mean() < _PICTURE:
        return []
    return [
        Finding(
            "All images share one background",
            Severity.medium,
            f"{same.mean():.0%} of the pixels have the same grey level in at least {_IN_MOST:.0%} "
            f"of {images} images, and {picture.mean():.0%} show a picture there rather than one "
            "colour. The median of some images is that picture; subtracting it leaves the text.",
            "Draw another background for every image, in the colours and shapes of the text.",
        )
    ]


def _separable_ink(rgb: Sequence[GreyImages]) -> list[Finding]:
    separated = [_two_classes(image) for image in rgb]
    apart = [ink for ink in separated if ink is not None]
    if len(apart) < _IN_MOST * len(rgb):
        return []
    colours = np.stack(apart)
    one = bool((colours.std(0) < _ONE_INK).all())
    colour = "#{:02x}{:02x}{:02x}".format(*np.rint(np.median(colours, 0)).astype(int))
    return [
        Finding(
            "One colour separates the ink",
            Severity.medium if one else Severity.low,
            f"In {len(apart)} of {len(rgb)} images one threshold on the distance from the "
            "commonest colour splits the pixels into ground and ink, with hardly any between"
            + (f"; the ink is about {colour} in all of them." if one else "."),
            "Let colours of text and ground vary within one image and overlap, and draw clutter in "
            "the colour of the text.",
        )
    ]


def _two_classes(rgb: GreyImages) -> npt.NDArray[np.float64] | None:
    """Colour of the ink, if a threshold on the distance from the ground colour separates it."""
    coarse = (rgb >> 4).astype(np.int64) @ np.array([256, 16, 1])
    ground = rgb[coarse == np.bincount(coarse.ravel()).argmax()].mean(0)
    distance = np.abs(rgb - ground).max(-1)
    threshold, share = otsu_classes(np.rint(distance).astype(np.uint8))
    ink = distance > threshold
    if share < _TWO_CLASSES or not ink.any():
        return None
    low, high = distance[~ink].mean(), distance[ink].mean()
    third = (high - low) / 3
    doubtful = ((distance > low + third) & (distance < high - third)).sum() / ink.sum()
    return None if doubtful > _IN_DOUBT else np.asarray(np.median(rgb[ink], 0), np.float64)
