"""The size an image claims to have, told from its header before anything is decoded."""

import math

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Markers of JPEG segments that hold a size."""
_BARE = {0x01, *range(0xD0, 0xD9)}
"""Markers that no segment follows."""
_SCAN, _END = 0xDA, 0xD9


def claimed_size(data: bytes) -> tuple[int, int]:
    """Width and height of a PNG or JPEG; 0 and 0 where the bytes do not say.

    Example:
        >>> claimed_size(b"GIF89a")
        (0, 0)
    """
    if data.startswith(_PNG):
        return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    return _of_jpeg(data) if data.startswith(_JPEG) else (0, 0)


def _of_jpeg(data: bytes) -> tuple[int, int]:
    """The largest of its sizes: a hostile one has several."""
    largest, at = (0, 0), 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            at += 1  # rubbish between segments, which decoders skip
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
    return largest
