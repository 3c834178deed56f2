"""Detects file formats from their first bytes, and describes ignored files in words."""

import struct
from collections.abc import Mapping

HEAD = 512
"""Number of bytes that are enough to detect a format."""

_BEGINNINGS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"%PDF", "PDF"),
    (b"\0\0\x01\0", "icon"),
    (b"8BPS", "Photoshop"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\x1f\x8b", "gzip"),
    (b"7z\xbc\xaf", "7z"),
    (b"Rar!", "rar"),
    (b"PAR1", "Parquet"),
)
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC"}
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
"""Sizes in bytes."""
_PNG_END = b"IEND\xaeB`\x82"
_ORIENTATION = 0x0112

IMAGES = ("JPEG", "PNG", "GIF", "BMP", "WebP", "TIFF")
"""Supported image formats."""

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".bmp", ".webp", ".tif", ".tiff",
)  # fmt: skip
"""Suffixes of image files, in lower case. Other content under such a name counts as damaged."""


def kind_of(data: bytes) -> str:
    """The format of a file by its first bytes: ``JPEG``, ``zip``, ``text``, ``unknown``."""
    if not data:
        return "empty"
    for beginning, kind in _BEGINNINGS:
        if data.startswith(beginning):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "video")
    return _kind_of_text(data[:HEAD])


def _kind_of_text(head: bytes) -> str:
    text = head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", errors="ignore")
    # Only the last character may be incomplete; more ignored bytes mean that this is no text.
    if len(text.encode()) < len(head.removeprefix(b"\xef\xbb\xbf")) - 3:
        return "unknown"
    if any(ord(character) < 32 and character not in "\t\n\r\f" for character in text):
        return "unknown"
    start = text.lstrip().lower()
    if "<svg" in start:
        return "SVG"
    if start.startswith(("<!doctype html", "<html")):
        return "web page"
    return "JSON" if start.startswith(("{", "[")) else "text"


def kind_in_words(kind: str) -> str:
    """A format from `kind_of` with its article: ``an empty file``, ``a PDF``, ``text``."""
    if kind == "unknown":
        return "bytes of an unknown format"
    if kind in ("text", "JSON"):
        return kind
    if kind == "empty":
        return "an empty file"
    return f"{'an' if kind[0] in 'AaEeIiOo' or kind.startswith('SVG') else 'a'} {kind}"


def is_whole(data: bytes, kind: str) -> bool:
    """Whether an image is complete, for formats in which Pillow accepts truncated files."""
    if kind == "PNG":
        return _PNG_END in data
    if kind == "WebP":
        return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    return kind != "GIF" or gif_frames(data) > 0


def gif_frames(data: bytes) -> int:
    """Number of frames of a GIF; 0 if a block is incomplete."""
    at, frames = 13 + _colours(data[10:11]), 0
    while at < len(data):
        block = data[at]
        if block == 0x3B:
            return frames
        if block == 0x2C:
            frames += 1
            at = _after_blocks(data, at + 11 + _colours(data[at + 9 : at + 10]))
        else:
            at = _after_blocks(data, at + 2) if block == 0x21 else at + 1
    return 0


def _colours(flags: bytes) -> int:
    """Size of the colour table in bytes, from the flags."""
    return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def _after_blocks(data: bytes, at: int) -> int:
    while at < len(data) and data[at]:
        at += data[at] + 1
    return at + 1


def orientation(exif: object) -> int:
    """EXIF orientation, 1 to 8. Pillow's parser is not used because it warns of damaged EXIF."""
    if not isinstance(exif, bytes):
        return 1
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
        for entry in range(entries):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, directory + 2 + 12 * entry)
            if tag == _ORIENTATION:
                return int(value)
    except struct.error:
        pass
    return 1


def left_out_in_words(left_out: Mapping[str, int]) -> str:
    """Describe ignored files in one line, most frequent kind first; empty if there are none.

    Examples:
        >>> left_out_in_words({"text": 2, "damaged GIF": 3})
        '5 files left out: 3 damaged GIF, 2 text'
    """
    counted = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    total = sum(left_out.values())
    if not total:
        return ""
    kinds = ", ".join(f"{count} {kind}" for kind, count in counted if count)
    return f"{total} file{'s' if total > 1 else ''} left out: {kinds}"


def in_words(left_out: Mapping[str, int], notes: Mapping[str, int]) -> list[str]:
    """Describe ignored files and remarks on images, one line each.

    Args:
        left_out: Counts of ignored entries by kind.
        notes: Counts of images by remark, see `pictures.Picture.notes`.
    """
    lines = [left_out_in_words(left_out)] if left_out else []
    return lines + [
        f"{count} image{'s are' if count > 1 else ' is'} {note}" for note, count in notes.items()
    ]
