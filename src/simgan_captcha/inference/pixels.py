"""Reads the size of an image from its header, before it is decoded."""

import math
import struct

from simgan_captcha.data.kinds import gif_frames, kind_of

_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Markers of JPEG segments that hold a size."""
_BARE = {0x01, *range(0xD0, 0xD9)}
"""Markers without a segment."""
_SCAN, _END = 0xDA, 0xD9
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_SHORT, _TIFF_ENTRIES = 256, 257, 3, 4096


def claimed_size(data: bytes) -> tuple[int, int]:
    """Width and height that an image states; 0 and 0 if it states none.

    The heights of all frames of an animation are added.

    Example:
        >>> claimed_size(b"GIF89a")
        (0, 0)
    """
    try:
        width, height, frames = _CLAIMS.get(kind_of(data), _nothing)(data)
    except (struct.error, OverflowError):  # cut off, or with an offset far beyond its end
        return 0, 0
    return width, height * frames


def _nothing(data: bytes) -> tuple[int, int, int]:
    return 0, 0, 1


def _of_png(data: bytes) -> tuple[int, int, int]:
    animation = data.find(b"acTL", 0, data.find(b"IDAT"))
    frames = 1 if animation < 0 else struct.unpack_from(">I", data, animation + 4)[0]
    return *struct.unpack_from(">II", data, 16), max(1, frames)


def _of_gif(data: bytes) -> tuple[int, int, int]:
    return *struct.unpack_from("<HH", data, 6), max(1, gif_frames(data))


def _of_bmp(data: bytes) -> tuple[int, int, int]:
    narrow = data[14] == 12
    width, height = struct.unpack_from("<HH" if narrow else "<ii", data, 18)
    return abs(width), abs(height), 1  # a negative height means another order of rows


def _of_webp(data: bytes) -> tuple[int, int, int]:
    if data[12:16] == b"VP8X":
        low_w, high_w, low_h, high_h = struct.unpack_from("<HBHB", data, 24)
        width, height = low_w + (high_w << 16) + 1, low_h + (high_h << 16) + 1
        animated = data[20] & 2
        return width, height, max(1, data.count(b"ANMF") if animated else 1)
    if data[12:16] == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, 1
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF, 1


def _of_tiff(data: bytes) -> tuple[int, int, int]:
    """Size of the first page, the only one that is read."""
    order = "<" if data.startswith(b"II") else ">"
    large = data[2:4] in (b"+\0", b"\0+")
    (at,) = struct.unpack_from(order + ("Q" if large else "I"), data, 8 if large else 4)
    (entries,) = struct.unpack_from(order + ("Q" if large else "H"), data, at)
    first, step = (at + 8, 20) if large else (at + 2, 12)
    sizes = {_TIFF_WIDTH: 0, _TIFF_HEIGHT: 0}
    for entry in range(first, first + step * min(entries, _TIFF_ENTRIES), step):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag in sizes:
            form = "H" if kind == _TIFF_SHORT else "I"
            (size,) = struct.unpack_from(order + form, data, entry + (12 if large else 8))
            sizes[tag] = max(sizes[tag], size)
    return sizes[_TIFF_WIDTH], sizes[_TIFF_HEIGHT], 1


def _of_jpeg(data: bytes) -> tuple[int, int, int]:
    """The largest size in the file; a hostile file may state several."""
    largest, at = (0, 0), 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            at += 1  # bytes between segments, which decoders skip
            continue
        marker = data[at + 1]
        if marker in (_SCAN, _END):
            break
        if marker == 0xFF or marker in _BARE:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in _FRAMES:
            height, width = (int.from_bytes(data[at + n : at + n + 2]) for n in (5, 7))
            largest = max(largest, (width, height), key=math.prod)
        at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4]))
    return *largest, 1


_CLAIMS = {
    "JPEG": _of_jpeg,
    "PNG": _of_png,
    "GIF": _of_gif,
    "BMP": _of_bmp,
    "WebP": _of_webp,
    "TIFF": _of_tiff,
}
