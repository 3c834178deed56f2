"""Export of a recognizer: the file gives the same readings, or is not written."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from simgan_captcha import Reader
from simgan_captcha.data.background import Background
from simgan_captcha.errors import RunError
from simgan_captcha.recognizer import export as exporting
from simgan_captcha.recognizer.decode import recognizer
from simgan_captcha.recognizer.export import Parity, WholeReader, compare, export_reader
from simgan_captcha.recognizer.network import RecognizerArchitecture, build_recognizer
from tests.inference.test_reader import GREY, NETWORK
from tests.small_run import SCHEME, shaded

DARK = Background(np.full((24, 48), 200, np.uint8), np.zeros((24, 48), bool), 20.0)
BACKGROUNDS = {
    "relative": shaded(),
    "binary": replace(shaded(), encoding="binary"),
    "bright lines": replace(shaded(), line_removal_width=2),
    "dark ink, dark lines": replace(DARK, line_removal_width=1),
}


@pytest.mark.parametrize("kind", list(BACKGROUNDS))
def test_images_are_normalised_as_by_the_background(kind: str) -> None:
    background = BACKGROUNDS[kind]
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (5, 24, 48), np.uint8)
    images = np.concatenate([GREY[:5], noise])
    expected = background.normalise(images)
    normalise = WholeReader(nn.Identity(), background).normalise
    np.testing.assert_allclose(normalise(torch.from_numpy(images)), expected, atol=2e-5)


@pytest.mark.parametrize("kind", ["relative", "bright lines"])
def test_the_file_reads_like_torch(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "reader.onnx"
    parity = export_reader(path, NETWORK, BACKGROUNDS[kind], SCHEME, GREY)
    assert (parity.images, parity.changed) == (len(GREY), 0)
    assert parity.confidence_error < 1e-3
    own = recognizer(NETWORK, BACKGROUNDS[kind])
    for count in (1, 3, 40):  # batches of any size
        assert compare(own, Reader(path).recognize, GREY[:count]).changed == 0


def test_the_original_network_is_exported_too(tmp_path: Path) -> None:
    scheme = SCHEME.model_copy(update={"width": 48, "height": 48})
    network = build_recognizer(RecognizerArchitecture(48, 48, 2, 4, "original")).eval()
    background = Background(np.zeros((48, 48), np.uint8), np.zeros((48, 48), bool), 250.0)
    images = np.random.default_rng(0).integers(0, 256, (6, 48, 48), np.uint8)
    parity = export_reader(tmp_path / "seed.onnx", network, background, scheme, images)
    assert parity == Parity(6, 0, parity.confidence_error)


def test_int8_readings_are_nearly_the_same_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "int8.onnx"
    monkeypatch.setattr(exporting, "MOST_CHANGED", 1)
    parity = export_reader(path, NETWORK, shaded(), SCHEME, GREY, int8=True)
    assert parity.images == len(GREY) // 2  # the other half gave the ranges
    assert b"QuantizeLinear" in path.read_bytes()
    assert parity.confidence_error > 0
    monkeypatch.setattr(exporting, "MOST_CHANGED", -1)
    path.unlink()
    with pytest.raises(RunError, match=r"int8 reader to read as the run's own.*without --int8"):
        export_reader(path, NETWORK, shaded(), SCHEME, GREY, int8=True)
    assert not path.exists()


def test_a_file_with_different_readings_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "compare", lambda own, exported, images: Parity(40, 1, 0.0))
    with pytest.raises(RunError, match="1 of 40 images read differently"):
        export_reader(tmp_path / "reader.onnx", NETWORK, shaded(), SCHEME, GREY)
    assert not list(tmp_path.iterdir())
