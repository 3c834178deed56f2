"""Where images to read come from, and what standard input may hold."""

import io
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simgan_captcha.errors import UsageError
from simgan_captcha.inference.reader import ImageReader, NamedImage, Unreadable
from simgan_captcha.inference.sources import image_sources
from simgan_captcha.types import Floats, GreyImages, Ids
from tests.commands import command
from tests.small_run import SCHEME, draw_captchas, write_challenges

CAPTCHAS = draw_captchas(6)


def from_stdin(data: bytes) -> list[object]:
    return list(image_sources(["-"], io.BytesIO(data)))


def recognize(images: GreyImages) -> tuple[Ids, Floats]:
    shape = (len(images), SCHEME.max_length)
    return np.zeros(shape, np.int64), np.ones(shape, np.float32)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
def test_standard_input_accepts_images_of_all_formats(kind: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (48, 24), (200, 10, 10)).save(buffer, kind)
    assert from_stdin(buffer.getvalue()) == [NamedImage("-", buffer.getvalue())]


@pytest.mark.parametrize(
    ("data", "got"),
    [
        (b"", "got nothing"),
        (b"\x7fELF\x02\x01\x01\0\0\0", "got bytes of an unknown format"),
        (b"PK\x03\x04\0\0", "got a zip"),
        (b"a.jpg\0b.jpg\0", "got bytes of an unknown format"),
        (b"RIFF\x10\x91\xc3\x02 no NUL among them", "got bytes of an unknown format"),
    ],
)
def test_other_standard_input_is_an_error(data: bytes, got: str) -> None:
    with pytest.raises(UsageError, match=rf"one file name per line, from standard input, {got}"):
        from_stdin(data)


def test_names_on_standard_input_may_hold_any_bytes_of_text() -> None:
    assert from_stdin(b"caf\xe9.jpg\n\xff\xfe\t.png\r\n") == [
        Path("caf\udce9.jpg"),
        Path("\udcff\udcfe\t.png"),
    ]


@pytest.mark.parametrize("form", ["--json", "--csv"])
def test_an_error_in_standard_input_leaves_no_output(form: str) -> None:
    done = command("read", "-", form, input="")
    done.error(2, "from standard input, got nothing")
    assert done.out == ""


def test_an_invalid_file_name_does_not_affect_other_files(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(CAPTCHAS[0][0])
    names = f"{path}\n" + "x" * 600 + f"\nno\0name\n{path}\n"
    rows = ImageReader(SCHEME, recognize).read_each(
        image_sources(["-"], io.BytesIO(names.encode()))
    )
    found = [row.error if isinstance(row, Unreadable) else row.name for row in rows]
    assert (found[0], found[3]) == (str(path), str(path))
    assert "contains a NUL" in found[2]


def test_folders_zip_files_and_batches_are_read(tmp_path: Path) -> None:
    folder, batches = tmp_path / "images", tmp_path / "batches"
    (folder / "deep").mkdir(parents=True)
    for number, (data, _) in enumerate(CAPTCHAS[:3]):
        (folder / f"{number}.jpg").write_bytes(data)
    (folder / "deep" / "3.jpg").write_bytes(CAPTCHAS[3][0])
    (folder / "notes.txt").write_text("about them")
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.writestr("in/4.jpg", CAPTCHAS[4][0])
    names = write_challenges(batches, CAPTCHAS)
    left_out: Counter[str] = Counter()
    reader = ImageReader(SCHEME, recognize)

    def read(*places: Path, recursive: bool = False) -> list[str]:
        sources = image_sources(
            map(str, places), io.BytesIO(), recursive=recursive, left_out=left_out
        )
        return [row.name for row in reader.read_each(sources) if not isinstance(row, Unreadable)]

    assert read(folder) == [str(folder / f"{n}.jpg") for n in range(3)]
    assert left_out == {"text": 1, "folder (not looked into without --recursive)": 1}
    assert len(read(folder, recursive=True)) == 4
    assert read(tmp_path / "some.zip") == ["in/4.jpg"]
    assert set(read(batches)) == set(names)
    assert len(read(batches / "challenge-0", tmp_path / "some.zip")) == 3
    (batches / "x.png").write_bytes(b"no image")
    assert len(read(batches)) == len(names)
    assert left_out["no image (.png)"] == 1
