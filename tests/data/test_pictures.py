"""A picture has the same pixels in every format and mode, and from every kind of source."""

import io
import re
import struct
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from simgan_captcha.data.foreground import decode_scheme_image
from simgan_captcha.data.kinds import gif_frames, kind_of
from simgan_captcha.data.pictures import (
    FIRST_PAGE,
    NEARLY_BLACK,
    UNITED,
    Picture,
    luma,
    open_picture,
)
from simgan_captcha.errors import ImageError
from simgan_captcha.generalist.reader import open_source
from simgan_captcha.inference.reader import ImageReader, NamedImage, Source, Unreadable
from simgan_captcha.scheme import MAX_PIXELS, Scheme
from simgan_captcha.types import Floats, GreyImages, Ids

Pixels = npt.NDArray[np.uint8]

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16")
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
SAVED = {
    "JPEG": {"1", "L", "RGB", "CMYK", "YCbCr"},
    "PNG": {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"},
    "GIF": {"1", "L", "LA", "P", "RGB", "RGBA"},
    "BMP": {"1", "L", "P", "RGB", "RGBA"},
    "WEBP": {"L", "LA", "P", "RGB", "RGBA", "CMYK"},
    "TIFF": {"1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"},
}
"""Modes that Pillow writes in each format."""
TABLE = [(kind, mode) for kind in FORMATS for mode in MODES if mode in SAVED[kind]]
AS_ARRAYS = {"1", "L", "LA", "RGB", "RGBA", "I;16"}
"""Modes whose arrays hold grey levels or RGB. Other arrays hold inks, palette indices or chroma."""


def drawn(seed: int, size: tuple[int, int] = (48, 24)) -> Image.Image:
    """Patches of colours, of which half are more or less transparent."""
    random = np.random.default_rng(seed)
    rows, columns = -(-size[1] // 6), -(-size[0] // 6)
    patches = random.integers(0, 256, (rows, columns, 4), dtype=np.uint8)
    patches[..., 3] |= np.uint8(255) * random.integers(0, 2, (rows, columns), dtype=np.uint8)
    pixels = np.kron(patches, np.ones((6, 6, 1), np.uint8))[: size[1], : size[0]]
    return Image.fromarray(np.ascontiguousarray(pixels), "RGBA")


def in_mode(picture: Image.Image, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    if mode in ("LA", "RGBA"):
        return picture.convert(mode)
    return picture.convert("RGB").convert(mode)


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def opened_or_refused(data: bytes) -> Pixels | str:
    """Its pixels, or the words of a refusal."""
    try:
        return open_picture(data).rgb
    except ImageError as error:
        return str(error)


def through_readers(source: Source, scheme: Scheme) -> GreyImages:
    """What `ImageReader` gives a net."""
    seen: list[GreyImages] = []

    def recognize(images: GreyImages) -> tuple[Ids, Floats]:
        seen.extend(images)
        return np.zeros((len(images), 2), np.int64), np.ones((len(images), 2), np.float32)

    ImageReader(scheme, recognize, threads=1).read(source)
    return seen[0]


def doors(data: bytes, folder: Path) -> dict[str, Source]:
    path = folder / "picture.with-any-SUFFIX"
    path.write_bytes(data)
    loaded = Image.open(io.BytesIO(data))
    loaded.load()
    return {
        "path": path,
        "text": str(path),
        "named": NamedImage("n", data),
        "Pillow, not loaded": Image.open(io.BytesIO(data)),
        "Pillow, loaded": loaded,
        "Pillow, of a file": Image.open(path),
    }


@settings(max_examples=60, deadline=None)
@given(
    saved_as=st.sampled_from(TABLE),
    seed=st.integers(0, 10_000),
    width=st.integers(1, 60),
    height=st.integers(1, 40),
    turn=st.sampled_from([None, *range(1, 9)]),
)
def test_all_sources_give_the_same_pixels(
    saved_as: tuple[str, str], seed: int, width: int, height: int, turn: int | None
) -> None:
    kind, mode = saved_as
    exif = Image.Exif()
    options: dict[str, object] = {}
    if turn is not None and kind in ("JPEG", "PNG", "WEBP"):
        exif[0x0112] = turn
        options["exif"] = exif
    data = saved(in_mode(drawn(seed, (width, height)), mode), kind, **options)
    expected = open_picture(data).rgb
    turned = "exif" in options and turn is not None and turn > 4
    assert expected.shape == ((width, height, 3) if turned else (height, width, 3))
    shape = expected.shape
    schemes = [
        Scheme(alphabet="ab", length=2, width=max(8, shape[1]), height=max(8, shape[0])),
        Scheme(alphabet="ab", length=2, width=40, height=20, background="plain"),
    ]
    with TemporaryDirectory() as folder, ExitStack() as closed:
        for door, source in doors(data, Path(folder)).items():
            if isinstance(source, Image.Image):
                closed.enter_context(source)
            assert np.array_equal(open_source(source).rgb, expected), door
            for scheme in schemes:
                if scheme.shares_picture and (scheme.height, scheme.width) != shape[:2]:
                    continue
                grey = decode_scheme_image(data, scheme)
                assert np.array_equal(through_readers(source, scheme), grey), door
    if mode in AS_ARRAYS and "exif" not in options and kind in ("JPEG", "PNG", "TIFF"):
        array = np.asarray(Image.open(io.BytesIO(data)))
        assert np.array_equal(open_picture(array).rgb, expected)
    assert np.array_equal(open_picture(expected).rgb, expected)
    assert np.array_equal(luma(expected), luma(open_picture(expected).rgb))


@pytest.mark.parametrize(("kind", "mode"), TABLE)
def test_formats_and_modes_decode_to_the_expected_pixels(kind: str, mode: str) -> None:
    """Letters on paper, in every format and mode: dark where they stand, light elsewhere."""
    page = Image.new("RGBA", (48, 24), (250, 250, 240, 255))
    page.paste((20, 20, 60, 255), (16, 6, 32, 18))
    grey = luma(open_picture(saved(in_mode(page, mode), kind)).rgb)
    # Medians, as one bit and few colours are dithered.
    assert np.median(grey[8:16, 18:30]) < 60
    assert np.median(grey[:4]) > 200


@pytest.mark.parametrize(("kind", "mode"), TABLE)
def test_truncated_files_are_refused_or_complete(kind: str, mode: str) -> None:
    data = saved(in_mode(drawn(3), mode), kind)
    whole = open_picture(data).rgb
    for end in {0, 1, 4, 12, *range(20, len(data), max(1, len(data) // 60)), len(data) - 1}:
        cut = opened_or_refused(data[:end])
        if isinstance(cut, str):
            assert "got " in cut
        else:
            assert np.array_equal(cut, whole), end


def test_a_missing_or_unreadable_file_is_reported_in_one_sentence(tmp_path: Path) -> None:
    missing = re.escape(f"expected an image at {tmp_path / 'no.png'}, found no file; correct")
    with pytest.raises(ImageError, match=missing):
        open_picture(tmp_path / "no.png")
    (tmp_path / "file").touch()
    with pytest.raises(ImageError, match="found no file; correct the path"):
        open_picture(tmp_path / "file" / "no.png")
    with pytest.raises(ImageError, match=r"the system refused \(.+\); correct the path"):
        open_picture(tmp_path)


def test_a_frame_that_is_larger_than_its_picture_is_refused() -> None:
    screen, frame = (
        struct.pack("<HH3B", 48, 24, 0, 0, 0),
        struct.pack("<4HB", 0, 0, 60000, 60000, 0),
    )
    data = b"GIF89a" + screen + b"\x2c" + frame + b"\x02\x01\0\0\x3b"
    with pytest.raises(ImageError, match="at most 4000000 pixels, the image claims more"):
        open_picture(data)


@settings(max_examples=150, deadline=None)
@given(
    saved_as=st.sampled_from(TABLE),
    damages=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 9), st.binary(max_size=6)), min_size=1, max_size=4
    ),
)
def test_damaged_files_decode_or_are_refused_with_a_message(
    saved_as: tuple[str, str], damages: list[tuple[float, int, bytes]]
) -> None:
    kind, mode = saved_as
    data = saved(in_mode(drawn(5), mode), kind)
    for place, removed, inserted in damages:
        at = int(place * place * len(data))
        data = data[:at] + inserted + data[at + removed :]
    pixels = opened_or_refused(data)
    if isinstance(pixels, str):
        assert "b'" not in pixels
    else:
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == 3


def frames(count: int = 3, size: tuple[int, int] = (60, 30)) -> list[Image.Image]:
    """One square each, in turn from left to right."""
    made = []
    for number in range(count):
        frame = Image.new("RGB", size, (240, 240, 240))
        left = 5 + 18 * number % size[0]
        frame.paste((0, 0, 120), (left, 5, left + 10, 25))
        made.append(frame)
    return made


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_frames_of_an_animation_are_united(kind: str) -> None:
    first, *others = frames()
    data = saved(first, kind, save_all=True, append_images=others)
    picture = open_picture(data)
    assert picture.notes == (UNITED,)
    grey = luma(picture.rgb)
    assert [grey[15, 10 + 18 * number] < 60 for number in range(3)] == [True] * 3
    assert grey[2].min() > 220
    assert np.array_equal(open_picture(Image.open(io.BytesIO(data))).rgb, picture.rgb)
    for end in range(20, len(data), 7):
        cut = opened_or_refused(data[:end])
        assert isinstance(cut, str) or np.array_equal(cut, picture.rgb)


def test_the_first_of_several_pages_is_read() -> None:
    first, *others = frames()
    picture = open_picture(saved(first, "TIFF", save_all=True, append_images=others))
    assert picture.notes == (FIRST_PAGE,)
    assert np.array_equal(picture.rgb, np.asarray(first))


def test_an_animation_of_too_many_frames_is_refused_before_it_is_decoded() -> None:
    first, *others = frames(2, (600, 300))
    data = saved(first, "GIF", save_all=True, append_images=others)
    assert gif_frames(data) == 2
    # Its last frame again and again: small in bytes, large in pixels.
    begin = data.rindex(b"\x21\xf9\x04")
    bomb = data[:begin] + data[begin:-1] * 60 + b";"
    with pytest.raises(ImageError, match=f"at most {MAX_PIXELS} pixels"):
        open_picture(bomb)


def alpha_only(ink: int) -> Image.Image:
    letters = np.full((24, 48, 4), ink, np.uint8)
    letters[..., 3] = 0
    letters[6:18, 16:32, 3] = 255
    return Image.fromarray(letters, "RGBA")


@pytest.mark.parametrize(("ink", "ground"), [(0, 255), (120, 255), (255, 0), (240, 0)])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "GIF"])
def test_transparent_images_are_laid_where_their_ink_is_visible(
    kind: str, ink: int, ground: int
) -> None:
    grey = luma(open_picture(saved(alpha_only(ink), kind, lossless=True)).rgb)
    assert abs(int(grey[0, 0]) - ground) <= 1
    assert abs(int(grey[12, 24]) - ink) <= 1
    scheme = Scheme(alphabet="ab", length=2, width=48, height=24)
    assert np.array_equal(decode_scheme_image(alpha_only(ink), scheme)[12, 24], grey[12, 24])


def test_16_bits_are_scaled_and_12_bits_are_noted() -> None:
    levels = np.linspace(0, 65535, 48, dtype=np.uint16)[None].repeat(24, 0)
    _, encoded = cv2.imencode(".png", levels)
    picture = open_picture(bytes(encoded))
    assert picture.notes == ()
    assert np.array_equal(picture.rgb[..., 0], levels >> 8)
    assert np.array_equal(open_picture(levels).rgb, picture.rgb)
    _, encoded = cv2.imencode(".png", levels >> 4)
    assert open_picture(bytes(encoded)).notes == (NEARLY_BLACK,)
    colours = np.stack([levels, levels[::-1], levels[:, ::-1]], -1)
    _, encoded = cv2.imencode(".png", colours[..., ::-1])
    assert np.array_equal(open_picture(bytes(encoded)).rgb, open_picture(colours).rgb)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_damaged_exif_turns_nothing(order: str) -> None:
    exif = b"Exif\0\0" + (b"II" if order == "<" else b"MM")
    exif += struct.pack(f"{order}HIH", 42, 8, 40) + b"\x12\x01"
    plain, with_exif = (saved(drawn(1).convert("RGB"), "JPEG", **o) for o in ({}, {"exif": exif}))
    assert np.array_equal(open_picture(plain).rgb, open_picture(with_exif).rgb)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: np.zeros((4, 5), np.float32), "uint8, uint16 or bool"),
        (lambda: np.zeros((4, 5, 7), np.uint8), r"got \(4, 5, 7\)"),
        (lambda: np.zeros((0, 5), np.uint8), r"got \(0, 5\)"),
        (lambda: np.zeros((2001, 2000), np.uint8), "at most 4000000 pixels"),
        (lambda: Image.new("L", (2001, 2000)), "at most 4000000 pixels"),
        (lambda: Image.new("F", (20, 20)), "got the mode F"),
        (lambda: b"hello", "got text"),
        (lambda: b"<!DOCTYPE html><html>", "got a web page"),
        (lambda: b"\0\1\2\3", "got bytes of an unknown format"),
        (lambda: "data:image/png,abc", "a data: URI with base64"),
        (lambda: "data:image/png;base64,%%", "expected base64 of an image"),
        (lambda: "a\0b", "contains a NUL"),
    ],
)
def test_invalid_sources_are_refused(make: Callable[[], Source], says: str) -> None:
    with pytest.raises(ImageError, match=says):
        open_picture(make())  # type: ignore[arg-type]
    scheme = Scheme(alphabet="ab", length=2, width=40, height=20)
    reader = ImageReader(scheme, lambda images: (np.zeros(0), np.zeros(0)))  # type: ignore[arg-type, return-value]
    (row,) = reader.read([make()])
    assert isinstance(row, Unreadable)


def test_data_uris_and_base64_hold_the_same_picture() -> None:
    import base64

    data = saved(drawn(2), "PNG")
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    assert np.array_equal(open_picture(uri).rgb, open_picture(data).rgb)


def test_formats_are_detected_by_their_first_bytes() -> None:
    assert [kind_of(saved(drawn(1).convert("RGB"), kind)) for kind in FORMATS] == [
        "JPEG", "PNG", "GIF", "BMP", "WebP", "TIFF",
    ]  # fmt: skip
    assert kind_of(b"BM is how this text begins") == "text"
    assert kind_of(b'{"images": []}') == "JSON"
    assert kind_of("Grüße".encode()[:3]) == "text"
    assert isinstance(open_picture(np.zeros((3, 4), np.bool_)), Picture)
