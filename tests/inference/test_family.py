"""The alarm: images of another family raise it, those of the reader's own family do not."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simgan_captcha import Reader
from simgan_captcha.inference.family import FIGURES, Family, Look
from simgan_captcha.inference.reader import ImageReader
from simgan_captcha.recognizer.export import export_reader
from simgan_captcha.scheme import Scheme
from simgan_captcha.types import Floats, GreyImages, Ids
from tests.inference.test_reader import FILES, GREY, NETWORK, export_with_family
from tests.small_run import SCHEME, draw_captchas, shaded


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_with_family(tmp_path_factory.mktemp("exported") / "reader.onnx")


def test_own_images_raise_no_alarm(exported: Path) -> None:
    reader = Reader(exported)
    reader.read([data for data, _ in draw_captchas(40, seed=8)])
    assert reader.alarm() is None


def test_images_of_another_family_raise_an_alarm(exported: Path) -> None:
    reader = Reader(exported)
    reader.read([255 - grey for grey in GREY])
    alarm = reader.alarm()
    assert alarm is not None
    assert "may be of another captcha family" in alarm
    assert "of 40 images, the brightness of 40 is not" in alarm


def test_few_images_raise_no_alarm(exported: Path) -> None:
    reader = Reader(exported)
    reader.read([255 - grey for grey in GREY[:9]])
    assert reader.alarm() is None


def test_constraints_that_contradict_images_raise_no_alarm(exported: Path) -> None:
    reader = Reader(exported)
    reader.read(list(FILES), pattern="11")
    assert reader.alarm() is None


def test_a_file_that_knows_no_images_raises_no_alarm(tmp_path: Path) -> None:
    export_reader(tmp_path / "reader.onnx", NETWORK, shaded(), SCHEME, GREY)
    reader = Reader(tmp_path / "reader.onnx")
    reader.read([255 - grey for grey in GREY])
    assert reader.alarm() is None


def test_another_aspect_ratio_raises_an_alarm() -> None:
    scheme = Scheme(alphabet="ab", length=2, width=48, height=24, background="plain")

    def recognize(images: GreyImages) -> tuple[Ids, Floats]:
        return np.zeros((len(images), 2), np.int64), np.ones((len(images), 2), np.float32)

    own, other = ImageReader(scheme, recognize), ImageReader(scheme, recognize)
    images = np.random.default_rng(0).integers(0, 255, (40, 24, 48), np.uint8)
    own.read(list(images))
    other.own_family = lambda: Family.of(own.looks)
    other.read(list(images[:, :, :24]))
    assert "the aspect ratio of 40 is not 1.9 to 2.1 (median 1)" in str(other.alarm())


LOOKS = st.builds(Look, *[st.floats(0, 255)] * 4, st.floats(0, 1))


@given(st.lists(LOOKS, min_size=30, max_size=60))
@settings(max_examples=50, deadline=None)
def test_the_images_that_gave_the_ranges_raise_no_alarm(looks: list[Look]) -> None:
    family = Family.of(looks)
    assert family.alarm(looks) is None
    again = Family.from_description(family.describe())
    assert set(again.ranges) == set(FIGURES)


@pytest.mark.parametrize("value", [None, [], [1], [2, 1], ["a", 1], [0, float("nan")], [True]])
def test_ranges_that_cannot_be_are_refused(value: object) -> None:
    described = {name: [0, 1] for name in FIGURES} | {"brightness": value}
    with pytest.raises(ValueError, match="no range of brightness"):
        Family.from_description(described)
