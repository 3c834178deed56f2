import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from simgan_captcha.errors import RunError
from simgan_captcha.recognizer.decode import save_recognizer
from simgan_captcha.recognizer.network import RecognizerArchitecture
from simgan_captcha.recognizer.settings import ATTENTION_HEADS, RecognizerSettings
from simgan_captcha.recognizer.train import (
    CHECKPOINT,
    TrainedRecognizer,
    TrainingSession,
    count_flops,
    learning_rate_at,
    train_recognizer,
)
from simgan_captcha.training.checkpoint import load_weights

from . import training_case
from .training_case import (
    ARCHITECTURE,
    CLASSES,
    SETTINGS,
    accuracy,
    cpu,
    draw,
    quiet,
    same_weights,
    synthetic,
    train,
    untrained,
)

ROOT = Path(__file__).parents[2]


def changed(**settings: object) -> RecognizerSettings:
    return RecognizerSettings.model_validate(SETTINGS.model_dump() | settings)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedRecognizer, Path]:
    """An uninterrupted training."""
    folder = tmp_path_factory.mktemp("whole")
    return train(folder), folder


class Stop(Exception):
    pass


def stop_at(stop: int) -> Callable[[int, int, dict[str, float]], None]:
    def on_step(step: int, total: int, figures: dict[str, float]) -> None:
        if step == stop:
            raise Stop

    return on_step


def test_accuracy_rises(whole: tuple[TrainedRecognizer, Path]) -> None:
    result, folder = whole
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, SETTINGS.steps + 1))
    first, last = rows[:10], rows[-10:]
    assert sum(r["loss"] for r in first) / 10 > 0.8 * math.log(CLASSES)
    assert sum(r["loss"] for r in last) / 10 < 0.1 * math.log(CLASSES)
    assert sum(r["accuracy"] for r in last) / 10 > 0.95
    # New images, read with the averaged weights.
    assert accuracy(result.reader, *draw(9, 0, 500)) > 0.95


def test_the_result_of_a_training(whole: tuple[TrainedRecognizer, Path]) -> None:
    result, folder = whole
    assert not result.reader.training
    assert not any(parameter.requires_grad for parameter in result.reader.parameters())
    assert result.images == 200 * 32
    assert result.flops == 200 * count_flops(ARCHITECTURE, 32, backward=True) > 0
    assert result.figures.keys() == {"loss", "accuracy", "learning_rate"}
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1


def test_progress_is_reported_after_every_step(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def on_step(step: int, total: int, figures: dict[str, float]) -> None:
        seen.append((step, total))
        assert figures.keys() == {"loss", "accuracy", "learning_rate", "images_per_second"}
        assert figures["images_per_second"] > 0

    train(tmp_path, changed(steps=3), on_step=on_step)
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("stop", [5, 180])
def test_interrupted_training_ends_with_the_same_weights(
    tmp_path: Path, whole: tuple[TrainedRecognizer, Path], stop: int
) -> None:
    with pytest.raises(Stop):
        train(tmp_path, on_step=stop_at(stop))
    steps: list[int] = []
    again = train(tmp_path, on_step=lambda step, total, figures: steps.append(step))
    assert steps[0] == stop // SETTINGS.checkpoint_every * SETTINGS.checkpoint_every + 1
    assert same_weights(again.reader, whole[0].reader)
    assert again.figures == whole[0].figures
    assert (again.flops, again.images) == (whole[0].flops, whole[0].images)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (whole[1] / "metrics.jsonl").read_bytes()


def test_killed_training_ends_with_the_same_weights(
    tmp_path: Path, whole: tuple[TrainedRecognizer, Path]
) -> None:
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", training_case.__name__, str(killed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 47:  # seven steps after a checkpoint
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert same_weights(train(killed).reader, whole[0].reader)


def test_dropout_is_the_same_after_a_resume(tmp_path: Path) -> None:
    architecture = RecognizerArchitecture(48, 48, 2, 4, "original")
    settings = RecognizerSettings(kind="original", batch_size=2, steps=4, checkpoint_every=2)

    def stream(first: int) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            draws = torch.Generator().manual_seed(first)
            images = torch.rand(2, 2, 48, 48, generator=draws) * 2 - 1
            yield images, torch.randint(4, (2, 2), generator=draws)
            first += 1

    with pytest.raises(Stop):
        train(
            tmp_path / "a",
            settings,
            architecture=architecture,
            stream=stream,
            on_step=stop_at(3),
        )
    torch.rand(7)  # the state of the global generator differs, as in another process
    readers = [
        train(tmp_path / name, settings, architecture=architecture, stream=stream).reader
        for name in "ab"
    ]
    assert same_weights(*readers)


def test_the_global_random_state_is_unchanged(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    train(tmp_path, changed(steps=2))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_finished_training_only_gives_its_result(
    tmp_path: Path, whole: tuple[TrainedRecognizer, Path]
) -> None:
    train(tmp_path, changed(steps=20))
    steps: list[int] = []
    again = train(
        tmp_path, changed(steps=20), on_step=lambda step, total, figures: steps.append(step)
    )
    assert not steps
    assert again.figures.keys() == {"loss", "accuracy", "learning_rate"}


def test_seed_decides_the_first_weights(tmp_path: Path) -> None:
    one, same, other = (
        train(tmp_path / str(n), changed(steps=1), seed=seed).reader
        for n, seed in enumerate((1, 1, 2))
    )
    assert same_weights(one, same)
    assert not same_weights(one, other)


def test_training_starts_from_initial_weights(
    tmp_path: Path, whole: tuple[TrainedRecognizer, Path]
) -> None:
    settings = changed(steps=1, learning_rate=1e-6)
    result = train(tmp_path, settings, initial=whole[0].reader)
    assert result.figures["accuracy"] > 0.9
    assert accuracy(result.reader, *draw(9, 0, 500)) > 0.9


def test_bf16_training_learns(tmp_path: Path) -> None:
    result = train(tmp_path, changed(steps=60), precision="bf16-mixed")
    assert result.figures["loss"] < 0.8 * math.log(CLASSES)
    assert all(p.dtype is torch.float32 for p in result.reader.parameters())


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_divergence_is_an_error_in_words(tmp_path: Path, broken: float) -> None:
    def stream(first: int) -> Iterator[tuple[Tensor, Tensor]]:
        for number, (images, ids) in enumerate(synthetic(1, 32)(first), start=first):
            yield images * (broken if number == 4 else 1.0), ids

    with pytest.raises(RunError, match=r"finite loss, at step 5 got nan: .*learning rate"):
        train(tmp_path, stream=stream)
    assert not (tmp_path / CHECKPOINT).exists()  # a broken state is never saved


@pytest.mark.parametrize("other", [{"settings": changed(steps=40, batch_size=16)}, {"seed": 2}])
def test_a_checkpoint_of_another_training_is_refused(
    tmp_path: Path, other: dict[str, object]
) -> None:
    train(tmp_path, changed(steps=20))
    with pytest.raises(RunError, match=r"of these settings and seed.*delete it"):
        train(tmp_path, **{"settings": changed(steps=20), **other})  # type: ignore[arg-type]


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    train(tmp_path, changed(steps=20))
    other = RecognizerArchitecture(24, 48, 3, 4, channels=ARCHITECTURE.channels)
    with pytest.raises(RunError, match="does not fit"):
        train_recognizer(
            synthetic(1, 32),
            other,
            changed(steps=20),
            TrainingSession(tmp_path, cpu(), 1, quiet),
        )


@given(data=st.binary(max_size=200))
def test_a_damaged_checkpoint_is_an_error_in_words(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    (folder / CHECKPOINT).write_bytes(data)
    with pytest.raises(RunError, match=CHECKPOINT):
        train(folder, changed(steps=1))


def test_weights_of_something_else_are_no_checkpoint(tmp_path: Path) -> None:
    save_recognizer(tmp_path / CHECKPOINT, untrained(), ARCHITECTURE)
    with pytest.raises(RunError, match="does not fit"):
        train(tmp_path, changed(steps=1))


TOTALS = st.integers(1, 5000)
RATES = st.floats(1e-6, 1.0)


@given(total=TOTALS, highest=RATES, warm_up=st.floats(0, 1))
def test_learning_rate_rises_then_falls_within_its_bounds(
    total: int, highest: float, warm_up: float
) -> None:
    rates = [learning_rate_at(step, total, highest, warm_up) for step in range(total)]
    assert all(0 <= rate <= highest for rate in rates)
    assert rates[0] > 0
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert top <= warm_up * total + 1


@given(total=st.integers(20, 5000), highest=RATES)
def test_learning_rate_reaches_its_peak_and_ends_near_zero(total: int, highest: float) -> None:
    rates = [learning_rate_at(step, total, highest) for step in range(total)]
    assert max(rates) > 0.95 * highest
    assert rates[-1] < 0.03 * highest


def test_flops_are_linear_in_the_batch() -> None:
    *_, e = ARCHITECTURE.channels
    # The product of queries and keys is computed once for all images.
    once = 2 * ARCHITECTURE.length * e * e
    for backward, times in ((False, 1), (True, 3)):
        each = count_flops(ARCHITECTURE, 1, backward=backward) - times * once
        assert [count_flops(ARCHITECTURE, n, backward=backward) for n in (2, 7, 96)] == [
            n * each + times * once for n in (2, 7, 96)
        ]
    forward = count_flops(ARCHITECTURE, 1, backward=False)
    # The backward pass costs twice the forward pass, except at the input of the first layer.
    assert 2 < count_flops(ARCHITECTURE, 1, backward=True) / forward <= 3


def test_flops_counted_by_hand() -> None:
    """Multiply-adds of every layer, from shapes only."""
    a, b, c, d, e = ARCHITECTURE.channels
    columns, slots = 12, 2
    positions = 6 * columns
    by_hand = (
        12 * 24 * (2 * a * 25 + a * b * 9)
        + positions * (b * c + c * d + d * e) * 9
        + positions * e
        + columns * 2 * slots * e  # counting: densities, codes
        + slots * e * e  # queries and keys
        + ATTENTION_HEADS * slots * e * (2 * positions + columns)  # attention and its sums
        + slots * e * e  # values
        + positions * e * (CLASSES + 1)  # the centres
        + slots * positions * (CLASSES + 1)
        + slots * (e * e + e * CLASSES)
    )
    assert count_flops(ARCHITECTURE, 1, backward=False) == 2 * by_hand


@pytest.mark.parametrize(
    "channels", [(8, 8, 8, 8, 6), (0, 8, 8, 8, 8), (8, 8, 8, -8, 8), (8, 8, 8, 8, 8192), (8, 8)]
)
def test_invalid_widths_are_refused(channels: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError):
        changed(channels=channels)


def test_a_checkpoint_holds_the_averaged_weights_too(
    whole: tuple[TrainedRecognizer, Path],
) -> None:
    tensors, _ = load_weights(whole[1] / CHECKPOINT)
    for name, tensor in whole[0].reader.state_dict().items():
        assert torch.equal(tensors[f"module/average/{name}"], tensor)
