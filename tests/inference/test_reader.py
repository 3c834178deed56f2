"""Reading with an exported file: images of any kind, in order, without torch."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import accuracy_score

import simgan_captcha
from simgan_captcha import Reader
from simgan_captcha.data.images import decode_grey
from simgan_captcha.errors import ImageError, RunError
from simgan_captcha.inference.exported import METADATA
from simgan_captcha.inference.family import Family
from simgan_captcha.inference.reader import ImageReader, NamedImage, Source, Unreadable
from simgan_captcha.inference.readings import Reading
from simgan_captcha.recognizer.decode import read_images, recognizer
from simgan_captcha.recognizer.export import export_reader
from simgan_captcha.recognizer.network import RecognizerArchitecture, build_recognizer
from simgan_captcha.types import Floats, GreyImages, Ids
from tests.small_run import SCHEME, draw_captchas, shaded

FILES = [data for data, _ in draw_captchas(40)]
GREY: GreyImages = np.stack([decode_grey(data) for data in FILES])
ARCHITECTURE = RecognizerArchitecture(
    SCHEME.height, SCHEME.width, SCHEME.max_length, len(SCHEME.alphabet), channels=(4, 4, 4, 4, 8)
)
NETWORK = build_recognizer(ARCHITECTURE).eval()
OWN = list(read_images(NETWORK, shaded(), SCHEME, [str(n) for n in range(len(GREY))], GREY))


def export_with_family(path: Path) -> Path:
    """Export the network with the look of the images, and return the path."""
    own = ImageReader(SCHEME, recognizer(NETWORK, shaded()))
    own.read(list(FILES))
    export_reader(path, NETWORK, shaded(), SCHEME, GREY, family=Family.of(own.looks))
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "reader.onnx"
    export_reader(path, NETWORK, shaded(), SCHEME, GREY)
    return path


@pytest.fixture(scope="module")
def reader(exported: Path) -> Reader:
    return Reader(exported)


def same(one: Reading | Unreadable, other: Reading) -> bool:
    assert isinstance(one, Reading)
    assert one.confidence == pytest.approx(other.confidence, abs=1e-4)
    return one.text == other.text


def test_every_kind_of_image_reads_the_same(reader: Reader, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(FILES[3])
    picture = Image.open(path)
    rgb = np.repeat(GREY[3][..., None], 3, axis=-1)
    kinds: list[Source] = [
        path, str(path), FILES[3], NamedImage("n", FILES[3]), picture, GREY[3], rgb,
    ]  # fmt: skip
    for kind in kinds:
        assert same(reader.read(kind), OWN[3])
    readings = reader.read(kinds)
    assert [r.name for r in readings] == [str(path), str(path), "2", "n", "4", "5", "6"]
    assert all(same(reading, OWN[3]) for reading in readings)
    assert isinstance(reader.read(GREY[3]), Reading)
    assert reader.read([]) == []


def test_a_list_keeps_its_order_and_reports_unreadable_images(reader: Reader) -> None:
    readings = reader.read([FILES[0], FILES[1][:-60], GREY[2], GREY[2][1:], "no/such.jpg"])
    assert same(readings[0], OWN[0])
    assert same(readings[2], OWN[2])
    for n, name, words in (
        (1, "1", "damaged"),
        (3, "3", "expected an image of 48x24 pixels, got 48x23"),
        (4, "no/such.jpg", "expected an image at no/such.jpg, found no file; correct the path"),
    ):
        unreadable = readings[n]
        assert isinstance(unreadable, Unreadable)
        assert unreadable.name == name
        assert words in unreadable.error
    with pytest.raises(ImageError, match="damaged"):
        reader.read(FILES[1][:-60])


def test_readings_as_an_array_and_as_a_table(reader: Reader) -> None:
    texts = reader.predict(iter(FILES))
    assert accuracy_score([own.text for own in OWN], texts) == 1
    assert reader.predict([]).shape == (0,)
    with pytest.raises(ImageError, match=r"^1: .*damaged"):
        reader.predict([FILES[0], FILES[1][:-60]])
    table = pandas.DataFrame(reader.read([FILES[0], FILES[1][:-60]]))
    assert table.text[0] == OWN[0].text
    assert table.error.notna().tolist() == [False, True]


def test_invalid_sources_are_refused(reader: Reader) -> None:
    with pytest.raises(TypeError, match=r"expected an image as a path, bytes.*got int"):
        reader.read(7)  # type: ignore[call-overload]
    with pytest.raises(ImageError, match="uint8"):
        reader.read(GREY[0].astype(np.float32))


@given(st.lists(st.integers(0, len(FILES)), max_size=300))
def test_any_mix_of_good_and_broken_images_keeps_its_order(numbers: list[int]) -> None:
    def recognize(images: GreyImages) -> tuple[Ids, Floats]:
        found = [int((image == GREY).all((1, 2)).argmax()) for image in images]
        ids = np.array([[n % 4, n // 4 % 4] for n in found])
        return ids, np.full(ids.shape, 0.5, np.float32)

    broken = len(FILES)
    images: list[Source] = [b"broken" if n == broken else GREY[n] for n in numbers]
    for threads in (1, 3):
        rows = ImageReader(SCHEME, recognize, threads=threads).read(images)
        assert_in_order(rows, numbers)


def assert_in_order(rows: list[Reading | Unreadable], numbers: list[int]) -> None:
    broken = len(FILES)
    assert [row.name for row in rows] == [str(place) for place in range(len(numbers))]
    for n, row in zip(numbers, rows, strict=True):
        assert isinstance(row, Unreadable) == (n == broken)
        if isinstance(row, Reading):
            assert row.text == SCHEME.decode([n % 4, n // 4 % 4])


@pytest.mark.parametrize("threads", [1, 3])
def test_only_a_few_batches_are_in_memory(exported: Path, threads: int) -> None:
    reader, taken = Reader(exported, threads=threads), 0

    def endless() -> Iterator[Source]:
        nonlocal taken
        while True:
            taken += 1
            yield GREY[taken % len(GREY)]

    for done, _ in enumerate(reader.read_each(endless())):
        assert taken - done <= 100 * threads
        if done == 1000:
            break


def test_reading_imports_no_torch(exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(FILES[3])
    script = (
        "import sys\n"
        "from simgan_captcha import Reader\n"
        "print(Reader(sys.argv[1]).read(sys.argv[2]).text)\n"
        "heavy = {'torch', 'lightning_fabric', 'matplotlib', 'onnx', 'fastapi', 'typer'}\n"
        "heavy.add('pyarrow')\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, exported, path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == OWN[3].text


def test_the_metadata_of_a_file(exported: Path, reader: Reader) -> None:
    assert reader.scheme == SCHEME
    assert reader.version == simgan_captcha.__version__
    model = onnx.load(exported)
    (described,) = [p.value for p in model.metadata_props if p.key == METADATA]
    assert json.loads(described)["precision"] == "float32"
    assert [d.dim_param != "" for d in model.graph.input[0].type.tensor_type.shape.dim] == [
        True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize("damage", ["missing", "cut", "text", "of another kind", "of no scheme"])
def test_an_invalid_file_is_refused(exported: Path, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "reader.onnx"
    if damage == "cut":
        path.write_bytes(exported.read_bytes()[:-2000])
    if damage == "text":
        path.write_text("hello")
    if damage in ("of another kind", "of no scheme"):
        model = onnx.load(exported)
        del model.metadata_props[:]
        if damage == "of no scheme":
            onnx.helper.set_model_props(model, {METADATA: json.dumps({"scheme": {"length": 2}})})
        onnx.save(model, path)
    with pytest.raises(RunError, match=r"expected an exported reader at .*simgan-captcha export"):
        Reader(path)


def test_pictures_of_other_modes(reader: Reader) -> None:
    buffer = io.BytesIO()
    Image.fromarray(GREY[3]).convert("P").save(buffer, "PNG")
    assert same(reader.read(Image.open(buffer)), OWN[3])
    assert same(reader.read(buffer.getvalue()), OWN[3])
