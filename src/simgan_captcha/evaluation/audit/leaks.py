"""Search for names and metadata of image files that reveal the text."""

import base64
import hashlib
import io
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from PIL import ExifTags, Image

from simgan_captcha.evaluation.audit.verdict import Finding, Severity, severity_of
from simgan_captcha.evaluation.intervals import wilson_interval

_NOT_TEXT = {"icc_profile", "exif", "transparency", "jfif_version", "jfif_density", "background"}
"""Keys of ``Image.info`` in Pillow that are not texts."""
_MOST_TEXT = 4_000
"""Largest number of examined characters of a field."""
_VARIED = 0.1
"""Number of different values of a field, as a share of the images, from which the field varies."""


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode().rstrip("=")


_WAYS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "backwards": lambda text: text[::-1],
    "in hexadecimal": lambda text: text.encode().hex(),
    "in Base64": _base64,
    "as SHA-1": lambda text: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(),
    "as SHA-256": lambda text: hashlib.sha256(text.encode()).hexdigest(),
}
"""Possible encodings of a text by description. Comparisons ignore case."""


def leak_findings(images: Sequence[tuple[str, bytes]], texts: Mapping[str, str]) -> list[Finding]:
    """Find names and metadata of images that reveal their texts.

    Args:
        images: Names and encoded bytes of images.
        texts: Texts of readings by name. Wrong readings can hide a leak, but not create one.
    """
    pairs = [(PurePosixPath(name).stem, texts[name]) for name, _ in images if texts.get(name)]
    findings = []
    if (found := _given_away(pairs)) is not None:
        way, share, sample = found
        findings.append(
            Finding(
                "File names give the text away",
                severity_of(share),
                f"In {share:.1%} of {len(pairs)} names stands the text that was read, {way}: "
                f"{sample[0]!r} says {sample[1]!r}.",
                "Name images at random, and never by anything made of the text alone.",
                effect=share,
            )
        )
    fields: dict[str, dict[str, str]] = {}
    for name, data in images:
        for field, value in metadata_of(data):
            fields.setdefault(field, {})[name] = value
    for field, values in fields.items():
        findings += _field_findings(field, values, texts, len(images))
    return findings


def _field_findings(
    field: str, values: Mapping[str, str], texts: Mapping[str, str], images: int
) -> list[Finding]:
    """Report a field that reveals texts, or that differs between images."""
    found = _given_away([(value, texts[name]) for name, value in values.items() if texts.get(name)])
    fix = "Write images without metadata: only pixels, and what is needed to show them."
    if found is not None:
        way, share, sample = found
        of_all = share * len(values) / images
        return [
            Finding(
                f"Metadata give the text away ({field})",
                severity_of(of_all),
                f"In {of_all:.1%} of {images} images the field {field!r} holds the text that was "
                f"read, {way}: {sample[0][:80]!r} says {sample[1]!r}.",
                fix,
                effect=of_all,
            )
        ]
    different = Counter(values.values())
    if len(different) < max(2, _VARIED * images):
        return []  # the field has few values, such as the name of a program
    return [
        Finding(
            f"Metadata differ from image to image ({field})",
            Severity.low,
            f"The field {field!r} has {len(different)} different values in {len(values)} of "
            f"{images} images, as {next(iter(different))[:80]!r}.",
            fix,
        )
    ]


def metadata_of(data: bytes) -> Iterator[tuple[str, str]]:
    """Fields of a JPEG or PNG with text: comments, text chunks, EXIF, and bytes after the end.

    Args:
        data: An image that `open_picture` accepts.
    """
    after = data.rpartition(b"IEND" if data.startswith(b"\x89PNG") else b"\xff\xd9")[2]
    trailing = after[4:] if data.startswith(b"\x89PNG") else after
    if trailing.strip(b"\0\r\n "):
        yield "bytes after the end", _text(trailing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # damaged EXIF causes warnings
        try:
            with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
                image.load()  # reads text after the pixels, too
                fields = dict(image.info)
                exif = image.getexif()
                tags = {**exif, **exif.get_ifd(ExifTags.IFD.Exif)}
        except (OSError, SyntaxError, ValueError, KeyError, TypeError):
            return
    for key, value in fields.items():
        if isinstance(value, str | bytes) and key not in _NOT_TEXT:
            yield str(key)[:80], _text(value)
    for tag, value in tags.items():
        if isinstance(value, str | bytes):
            yield f"EXIF {ExifTags.TAGS.get(tag, tag)}", _text(value)


def _text(value: str | bytes) -> str:
    text = value if isinstance(value, str) else value.decode("latin-1")
    return text.replace("\0", "")[:_MOST_TEXT]


def _given_away(pairs: Sequence[tuple[str, str]]) -> tuple[str, float, tuple[str, str]] | None:
    """Find an encoding with which fields contain their texts more often than by chance.

    Args:
        pairs: Pairs of a field and the text of its image.

    Returns:
        Description of the encoding, share of fields that contain their text, and an example. None
        if there is no such encoding.
    """
    count = len(pairs)
    if not pairs or 2 * Counter(text for _, text in pairs).most_common(1)[0][1] > count:
        return None  # most texts are equal, so chance cannot be measured
    others = [_another(pairs, number) for number in range(count)]
    best: tuple[str, float, tuple[str, str]] | None = None
    for way, written in _WAYS.items():
        holds = [written(text).casefold() in where.casefold() for where, text in pairs]
        # Chance is measured by the number of texts that the field of another text contains.
        chance = sum(
            written(text).casefold() in where.casefold()
            for (_, text), where in zip(pairs, others, strict=True)
        )
        low, _ = wilson_interval(sum(holds), count)
        _, high = wilson_interval(chance, count)
        if low > high and (best is None or sum(holds) / count > best[1]):
            best = way, sum(holds) / count, pairs[holds.index(True)]
    return best


def _another(pairs: Sequence[tuple[str, str]], number: int) -> str:
    """Field of the next image that has another text."""
    turns = ((number + step) % len(pairs) for step in range(1, len(pairs)))
    return next(pairs[turn][0] for turn in turns if pairs[turn][1] != pairs[number][1])
