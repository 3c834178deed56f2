import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from simgan_captcha.data.background import Background
from simgan_captcha.errors import ImageError, RunError
from simgan_captcha.recognizer.decode import (
    BATCH,
    decode,
    load_recognizer,
    read_images,
    read_probabilities,
    save_recognizer,
)
from simgan_captcha.recognizer.network import RecognizerArchitecture, build_recognizer
from simgan_captcha.scheme import Scheme
from simgan_captcha.training.checkpoint import save_weights
from simgan_captcha.types import GreyImages
from tests.drawing import plain

SCHEME = Scheme(alphabet="abc1", length=2, width=48, height=24)
ARCHITECTURE = RecognizerArchitecture(24, 48, 2, 4, channels=(4, 4, 4, 4, 8))


def some_images(count: int) -> GreyImages:
    return np.random.default_rng(5).integers(0, 256, (count, 24, 48), dtype=np.uint8)


def background() -> Background:
    return plain(48, 24)


def names(count: int) -> list[str]:
    return [f"image {n}" for n in range(count)]


@pytest.mark.parametrize("kind", ["attention", "original"])
def test_a_saved_recognizer_is_loaded(tmp_path: Path, kind: str) -> None:
    described = {**RecognizerArchitecture(50, 100, 4, 36).describe(), "kind": kind}
    architecture = RecognizerArchitecture.from_description(described)
    reader, images = build_recognizer(architecture).eval(), torch.rand(3, 2, 50, 100) * 2 - 1
    save_recognizer(tmp_path / "recognizer.safetensors", reader, architecture)
    loaded, loaded_architecture = load_recognizer(tmp_path / "recognizer.safetensors")
    assert loaded_architecture == architecture
    assert not loaded.training
    assert torch.equal(loaded(images), reader(images))


def test_the_same_recognizer_gives_the_same_file(tmp_path: Path) -> None:
    reader = build_recognizer(ARCHITECTURE)
    for name in "ab":
        save_recognizer(tmp_path / f"{name}.safetensors", reader, ARCHITECTURE)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_readings_follow_the_softmax() -> None:
    reader, images = build_recognizer(ARCHITECTURE).eval(), some_images(5)
    with torch.no_grad():
        logits = reader(torch.from_numpy(background().normalise(images)))
    probabilities = logits.double().softmax(-1).numpy()
    readings = list(read_images(reader, background(), SCHEME, names(5), images))
    assert [reading.name for reading in readings] == names(5)
    for reading, rows in zip(readings, probabilities, strict=True):
        assert reading.text == "".join("abc1"[k] for k in rows.argmax(-1))
        assert reading.character_confidence == pytest.approx(rows.max(-1), rel=1e-4)
        assert reading.confidence == pytest.approx(np.prod(rows.max(-1)), rel=1e-4)
        assert 0 < reading.confidence <= 1


def test_neither_order_nor_names_nor_neighbours_change_a_reading() -> None:
    reader, count = build_recognizer(ARCHITECTURE), 2 * BATCH + 3
    images = some_images(count)
    readings = list(read_images(reader, background(), SCHEME, names(count), images))
    order = np.random.default_rng(1).permutation(count)
    hostile = ["../../etc/passwd", "", "\x00", *names(count - 3)]
    again = list(read_images(reader, background(), SCHEME, hostile, images[order]))
    assert [r.name for r in again] == hostile
    assert [r.text for r in again] == [readings[n].text for n in order]
    np.testing.assert_allclose(
        [r.confidence for r in again], [readings[n].confidence for n in order], rtol=1e-4
    )


def test_progress_of_reading_is_reported() -> None:
    count, told = 2 * BATCH + 3, list[tuple[int, int]]()
    probabilities = read_probabilities(
        build_recognizer(ARCHITECTURE),
        background(),
        some_images(count),
        lambda done, total, figures: told.append((done, total)),
    )
    assert told == [(BATCH, count), (2 * BATCH, count), (count, count)]
    assert probabilities.shape == (count, SCHEME.max_length, len(SCHEME.alphabet))


def test_no_images_give_no_readings() -> None:
    reader = build_recognizer(ARCHITECTURE)
    assert not list(read_images(reader, background(), SCHEME, [], some_images(0)))


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ImageError, match=r"\(N, 24, 48\), got \(1, 50, 100\)"):
        list(
            read_images(
                build_recognizer(ARCHITECTURE),
                background(),
                SCHEME,
                ["x"],
                np.zeros((1, 50, 100), np.uint8),
            )
        )


def test_a_missing_recognizer_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"expected weights at .*recognizer\.safetensors"):
        load_recognizer(tmp_path / "recognizer.safetensors")


@pytest.mark.parametrize(
    "description",
    [
        {},
        {"architecture": None},
        {"architecture": {}},
        {"architecture": {**ARCHITECTURE.describe(), "length": 3}},
        {"architecture": {**ARCHITECTURE.describe(), "kind": "other"}},
        {"architecture": {**ARCHITECTURE.describe(), "channels": [4, 4]}},
        {"architecture": {**ARCHITECTURE.describe(), "channels": [4, 4, 4, 4, 6]}},
        {"architecture": {**ARCHITECTURE.describe(), "height": "24"}},
        {"architecture": {**ARCHITECTURE.describe(), "height": -24}},
        {"architecture": {**ARCHITECTURE.describe(), "extra": 1}},
    ],
)
def test_weights_of_no_recognizer_are_an_error_in_words(
    tmp_path: Path, description: dict[str, object]
) -> None:
    path = tmp_path / "recognizer.safetensors"
    save_weights(path, build_recognizer(ARCHITECTURE).state_dict(), description)
    with pytest.raises(RunError, match=r"expected a reader's weights at .*they do not fit"):
        load_recognizer(path)


def test_a_foreign_file_is_an_error_in_words(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "recognizer.safetensors")
    with pytest.raises(RunError, match="simgan-captcha wrote"):
        load_recognizer(tmp_path / "recognizer.safetensors")


@given(cut=st.integers(0, 20_000))
def test_a_truncated_recognizer_is_an_error_in_words(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "recognizer.safetensors"
    save_recognizer(path, build_recognizer(ARCHITECTURE), ARCHITECTURE)
    path.write_bytes(path.read_bytes()[: min(cut, path.stat().st_size - 1)])
    with pytest.raises(RunError, match=r"recognizer\.safetensors"):
        load_recognizer(path)


@pytest.mark.parametrize(
    "sizes",
    [
        {"width": 100_000_000},
        {"width": 4096, "height": 4096},
        {"length": 64, "classes": 4000},
        {"channels": [4096] * 5},
        {"height": 2**70},
    ],
)
def test_false_sizes_take_no_memory(tmp_path: Path, sizes: dict[str, object]) -> None:
    path = tmp_path / "recognizer.safetensors"
    described = {**ARCHITECTURE.describe(), **sizes}
    save_weights(path, build_recognizer(ARCHITECTURE).state_dict(), {"architecture": described})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RunError, match="do not fit"):
        load_recognizer(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_another_architecture_than_expected_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recognizer.safetensors"
    save_recognizer(path, build_recognizer(ARCHITECTURE), ARCHITECTURE)
    assert load_recognizer(path, ARCHITECTURE)[1] == ARCHITECTURE
    with pytest.raises(RunError, match="it is of others"):
        load_recognizer(path, replace(ARCHITECTURE, width=ARCHITECTURE.width + 4))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    reader = build_recognizer(ARCHITECTURE)
    next(reader.parameters()).data.view(-1)[0] = value
    save_recognizer(tmp_path / "recognizer.safetensors", reader, ARCHITECTURE)
    with pytest.raises(RunError, match="no numbers"):
        load_recognizer(tmp_path / "recognizer.safetensors")


@pytest.mark.parametrize("wrong", [float("nan"), -0.1, 1.1, 2401.0])
def test_invalid_confidences_are_refused(wrong: float) -> None:
    probabilities = np.full((1, SCHEME.max_length, SCHEME.classes), 0.1, np.float32)
    probabilities[0, 0] = wrong
    with pytest.raises(RunError, match="confidences from 0 to 1"):
        list(decode(SCHEME, ["x"], probabilities))
