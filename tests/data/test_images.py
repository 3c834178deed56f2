"""Decoding what comes from outside. Warnings are errors here, so none may escape."""

import io
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from simgan_captcha.data.images import MAX_BYTES, decode_grey, decode_rgb, encode_png
from simgan_captcha.data.pictures import open_picture
from simgan_captcha.errors import ImageError
from tests.drawing import encode_jpeg

COLOURS = np.kron(
    np.random.default_rng(0).integers(0, 256, (5, 10, 3), dtype=np.uint8),
    np.ones((10, 10, 1), np.uint8),
)
"""(50, 100, 3): patches of 10x10 pixels."""


def encoded(kind: str, *, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(COLOURS).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def animated_png() -> bytes:
    frame = Image.fromarray(COLOURS[::-1].copy())
    return encoded("PNG", save_all=True, append_images=[frame])


def png_claiming(side: int) -> bytes:
    data = bytearray(encoded("PNG"))
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def jpeg_claiming(side: int) -> bytes:
    data = bytearray(encoded("JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = side.to_bytes(2, "big") * 2
    return bytes(data)


def jpeg_with_damaged_exif() -> bytes:
    # A directory of 40 entries, of which only the first bytes are there.
    exif = b"Exif\0\0" + struct.pack("<2sHLH", b"II", 42, 8, 40) + b"\x1a\x01\x05\x00"
    data = encoded("JPEG")
    # Without the JFIF header, where Pillow would find what it looks up in EXIF.
    rest = data[4 + int.from_bytes(data[4:6], "big") :]
    return b"\xff\xd8\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + rest


WHOLE = {
    "jpeg": encoded("JPEG"),
    "grey jpeg": encoded("JPEG", mode="L"),
    "CMYK jpeg": encoded("JPEG", mode="CMYK"),
    "progressive jpeg": encoded("JPEG", progressive=True),
    "jpeg with damaged EXIF": jpeg_with_damaged_exif(),
    "png": encoded("PNG"),
    "png with alpha": encoded("PNG", mode="RGBA"),
    "png with palette": encoded("PNG", mode="P", transparency=bytes([0, 128])),
}


@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE.keys())
def test_whole_images_are_accepted_and_decode(data: bytes) -> None:
    open_picture(data, width=100, height=50)
    grey, colours = decode_grey(data), decode_rgb(data)
    assert (grey.shape, colours.shape) == ((50, 100), (50, 100, 3))
    assert grey.dtype == colours.dtype == np.uint8


def test_pillow_warns_of_damaged_exif() -> None:
    with pytest.warns(UserWarning, match="Corrupt EXIF"):
        Image.open(io.BytesIO(jpeg_with_damaged_exif()))


def test_colours_and_luma_are_right() -> None:
    data = encoded("PNG")
    np.testing.assert_array_equal(decode_rgb(data), COLOURS)
    luma = COLOURS @ np.array([0.299, 0.587, 0.114])
    assert np.abs(decode_grey(data) - luma).max() <= 1


def test_grey_through_the_codec_is_the_luma_of_colour_through_the_codec() -> None:
    luma = decode_grey(encoded("PNG"))
    grey = decode_grey(encode_jpeg(luma, 50))
    colour = decode_grey(encoded("JPEG", quality=50))
    difference = np.abs(grey.astype(int) - colour)
    # Rounding of luma alone can move a coefficient across a quantisation step.
    assert difference.mean() < 1
    assert np.abs(grey.astype(int) - luma).mean() > 2 * difference.mean()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected an image .*, got an empty file"),
        (b"%PDF-1.4", "expected an image .*, got a PDF"),
        (encoded("JPEG")[:-200], "expected a whole image, got a damaged JPEG"),
        (encoded("PNG")[:-40], "expected a whole image, got a damaged PNG"),
        (encoded("PNG")[:-12], "expected a whole image, got a damaged PNG"),
        (bytes(MAX_BYTES + 1), f"at most {MAX_BYTES} bytes"),
        (jpeg_claiming(65500), "at most 4000000 pixels, the image claims 65500x65500"),
        (png_claiming(10_000), "at most 4000000 pixels, the image claims 10000x10000"),
        (png_claiming(100_000), "at most 4000000 pixels, the image claims 100000x100000"),
        (encode_jpeg(np.zeros((50, 99), np.uint8), 50), "100x50 pixels, got 99x50"),
    ],
)
def test_other_bytes_are_refused_with_the_reason(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        open_picture(data, width=100, height=50)


def test_any_size_is_accepted_by_default() -> None:
    open_picture(encode_png(np.zeros((7, 9), np.uint8)))
    with pytest.raises(ImageError, match="anyx8 pixels, got 9x7"):
        open_picture(encode_png(np.zeros((7, 9), np.uint8)), height=8)


@settings(max_examples=400)
@given(
    st.sampled_from([*WHOLE.values(), animated_png()]),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), st.binary(max_size=8)), max_size=4),
)
@example(jpeg_claiming(65500), [])
@example(png_claiming(100_000), [])
def test_damaged_bytes_are_refused_or_decode(
    data: bytes, damages: list[tuple[float, int, bytes]]
) -> None:
    for place, removed, inserted in damages:
        # Squared, for most of what can go wrong is in the header.
        at = int(place * place * len(data))
        data = data[:at] + inserted + data[at + removed :]
    try:
        open_picture(data, width=100, height=50)
    except ImageError:
        for decode in (decode_grey, decode_rgb):
            with suppress(ImageError):
                assert decode(data).dtype == np.uint8
    else:
        assert decode_grey(data).shape == (50, 100)
        assert decode_rgb(data).shape == (50, 100, 3)


def test_png_keeps_every_pixel() -> None:
    np.testing.assert_array_equal(decode_rgb(encode_png(COLOURS)), COLOURS)
    np.testing.assert_array_equal(decode_grey(encode_png(COLOURS[..., 0])), COLOURS[..., 0])
