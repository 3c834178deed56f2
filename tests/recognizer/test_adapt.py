import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from simgan_captcha.errors import RunError
from simgan_captcha.recognizer.adapt import (
    STATISTICS_BATCHES,
    DistributionAlignment,
    count_adaptation_flops,
    frozen_statistics,
    steps_of,
)
from simgan_captcha.recognizer.settings import AdaptationSettings
from simgan_captcha.recognizer.train import CHECKPOINT, TrainedRecognizer, count_flops

from .training_case import (
    ADAPTATION,
    ARCHITECTURE,
    CLASSES,
    accuracy,
    adapt,
    draw,
    real,
    real_test,
    same_weights,
    synthetic,
    train,
    untrained,
)


def changed(**settings: object) -> AdaptationSettings:
    return AdaptationSettings.model_validate(ADAPTATION.model_dump() | settings)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """A recognizer that was trained on synthetic images."""
    return train(tmp_path_factory.mktemp("trained")).reader


@pytest.fixture(scope="module")
def whole(
    trained: nn.Module, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainedRecognizer, Path]:
    """An uninterrupted adaptation."""
    folder = tmp_path_factory.mktemp("whole")
    return adapt(trained, folder), folder


class Stop(Exception):
    pass


def test_accuracy_on_real_images_rises_without_labels(
    trained: nn.Module, whole: tuple[TrainedRecognizer, Path]
) -> None:
    images, ids = real_test()
    assert accuracy(trained, *draw(9, 0, 500)) > 0.95
    assert accuracy(trained, images, ids) < 0.8
    # So small a network starts near chance. Eight trials with other initial weights reached 0.55 to
    # 1.0, five of them more than 0.99.
    assert accuracy(whole[0].reader, images, ids) > 0.8


def test_the_result_of_an_adaptation(
    whole: tuple[TrainedRecognizer, Path], trained: nn.Module, tmp_path: Path
) -> None:
    result, folder = whole
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = int(result.figures["steps"])
    assert 38 <= steps < 150  # few characters are unsure at first
    assert [row["step"] for row in rows] == list(range(1, steps + 1))
    assert {k: v for k, v in rows[-1].items() if k != "step"} == result.figures
    assert result.figures.keys() == {
        "loss",
        "real_loss",
        "synthetic_loss",
        "synthetic_accuracy",
        "pseudo_label_rate",
        "learning_rate",
        "steps",
    }
    assert all(0 <= row["pseudo_label_rate"] <= 1 for row in rows)
    # It reads augmented images better than a recognizer that does not learn.
    adapt(trained, tmp_path, changed(learning_rate=1e-12))
    still = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    with_learning, without = (
        np.mean([row["real_loss"] for row in of[steps // 2 :]]) for of in (rows, still)
    )
    assert with_learning < 0.7 * without
    assert not result.reader.training
    assert result.images == steps * (32 + 16)
    reading = count_flops(ARCHITECTURE, 32, backward=False)
    learning = count_flops(ARCHITECTURE, 32 + 16, backward=True)
    # The teacher, the student, and before these, batch-norm statistics and a first reading.
    assert result.flops == steps * (reading + learning) + 2 * STATISTICS_BATCHES * reading


def test_the_given_recognizer_is_unchanged(trained: nn.Module, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    adapt(trained, tmp_path, changed(steps=2))
    assert all(torch.equal(t, before[n]) for n, t in trained.state_dict().items())


def test_only_confident_pseudo_labels_are_learned(trained: nn.Module, tmp_path: Path) -> None:
    sure, unsure = (
        adapt(trained, tmp_path / str(confidence), changed(steps=3, confidence=confidence))
        for confidence in (0.01, 1.0)
    )
    assert sure.figures["pseudo_label_rate"] == 1
    assert sure.figures["real_loss"] > 0
    assert unsure.figures["pseudo_label_rate"] == 0
    assert unsure.figures["real_loss"] == 0
    assert not same_weights(sure.reader, unsure.reader)


@pytest.mark.parametrize("stop", [5, 30])
def test_interrupted_adaptation_ends_with_the_same_weights(
    tmp_path: Path, trained: nn.Module, whole: tuple[TrainedRecognizer, Path], stop: int
) -> None:
    def on_step(step: int, total: int, figures: dict[str, float]) -> None:
        if step == stop:
            raise Stop

    with pytest.raises(Stop):
        adapt(trained, tmp_path, on_step=on_step)
    steps: list[int] = []
    again = adapt(trained, tmp_path, on_step=lambda step, total, figures: steps.append(step))
    assert steps[0] == stop // ADAPTATION.checkpoint_every * ADAPTATION.checkpoint_every + 1
    assert same_weights(again.reader, whole[0].reader)
    assert again.figures == whole[0].figures
    assert (tmp_path / "metrics.jsonl").read_bytes() == (whole[1] / "metrics.jsonl").read_bytes()


@given(
    unsure=st.floats(0, 1), more=st.floats(0, 1), steps=st.integers(0, 500), longest=st.floats(1, 9)
)
def test_more_unsure_characters_take_more_steps(
    unsure: float, more: float, steps: int, longest: float
) -> None:
    settings = changed(steps=steps, max_steps_factor=longest)
    less_sure = min(1.0, unsure + more)
    assert steps_of(settings, unsure) <= steps_of(settings, less_sure)
    assert steps_of(settings, 1.0) == math.ceil(longest * steps)
    assert steps_of(settings, 0.05) == steps
    assert steps_of(settings, 0.0) == math.ceil(steps / 4)


@pytest.mark.parametrize(("confidence", "steps"), [(0.01, 6), (1.0, 60)])
def test_an_unsure_recognizer_adapts_longer(
    trained: nn.Module, tmp_path: Path, confidence: float, steps: int
) -> None:
    """With a threshold of 0.01 all characters are confident, with 1 none."""
    settings = changed(steps=24, max_steps_factor=2.5, confidence=confidence, checkpoint_every=4)

    def stop(step: int, total: int, figures: dict[str, float]) -> None:
        if step == 5:
            raise Stop

    whole = adapt(trained, tmp_path / "whole", settings)
    assert whole.figures["steps"] == steps
    assert whole.images == steps * (32 + 16)
    assert whole.flops == count_adaptation_flops(ARCHITECTURE, settings, steps)
    with pytest.raises(Stop):
        adapt(trained, tmp_path / "again", settings, on_step=stop)
    seen: list[tuple[int, int]] = []
    asked_from: list[int] = []

    def asked(first: int) -> Iterator[Tensor]:
        asked_from.append(first)
        return real(first)

    again = adapt(
        trained,
        tmp_path / "again",
        settings,
        real=asked,
        on_step=lambda step, total, figures: seen.append((step, total)),
    )
    assert seen == [(step, steps) for step in range(5, steps + 1)]
    assert asked_from == [4]  # the share of unsure characters is not measured again
    assert same_weights(again.reader, whole.reader)


def statistics(reader: nn.Module) -> list[tuple[Tensor, Tensor]]:
    found = []
    for layer in reader.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            found.append((layer.running_mean, layer.running_var))
    return found


def test_running_statistics_are_those_of_real_images_only(
    trained: nn.Module, tmp_path: Path
) -> None:
    """With nearly constant weights, synthetic images of another scale must have no effect."""
    still = changed(steps=5, learning_rate=1e-12)

    def wild(first: int) -> Iterator[tuple[Tensor, Tensor]]:
        for images, ids in synthetic(2, 16)(first):
            yield images * 1000 + 500, ids

    tame, beside_wild = (
        adapt(trained, tmp_path / name, still, known=known).reader
        for name, known in (("tame", None), ("wild", wild))
    )
    assert statistics(tame)
    for (mean, variance), (other_mean, other_variance) in zip(
        statistics(tame), statistics(beside_wild), strict=True
    ):
        torch.testing.assert_close(mean, other_mean, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(variance, other_variance, rtol=1e-3, atol=1e-5)
    # The statistics changed from those of synthetic images to those of real ones.
    before = statistics(trained)[0][1]
    assert (statistics(tame)[0][1] / before - 1).abs().max() > 0.1


def test_statistics_are_estimated_before_the_first_pseudo_label(tmp_path: Path) -> None:
    asked: list[int] = []

    def counted(first: int) -> Iterator[Tensor]:
        for number, images in enumerate(real(first), start=first):
            asked.append(number)
            yield images

    adapt(untrained(), tmp_path, changed(steps=2), real=counted)
    assert asked == [*range(STATISTICS_BATCHES), *range(STATISTICS_BATCHES), 0, 1]


def test_divergence_is_an_error_in_words(trained: nn.Module, tmp_path: Path) -> None:
    def broken(first: int) -> Iterator[tuple[Tensor, Tensor]]:
        for number, (images, ids) in enumerate(synthetic(2, 16)(first), start=first):
            yield images * (float("nan") if number == 2 else 1), ids

    with pytest.raises(RunError, match=r"finite loss, at step 3 got nan: .*learning rate"):
        adapt(trained, tmp_path, known=broken)
    assert not (tmp_path / CHECKPOINT).exists()


@pytest.mark.parametrize("other", [{"settings": changed(steps=20, confidence=0.5)}, {"seed": 2}])
def test_a_checkpoint_of_another_adaptation_is_refused(
    tmp_path: Path, other: dict[str, object]
) -> None:
    adapt(untrained(), tmp_path, changed(steps=20))
    with pytest.raises(RunError, match=r"of these settings and seed.*delete it"):
        adapt(untrained(), tmp_path, **{"settings": changed(steps=20), **other})  # type: ignore[arg-type]


def test_the_global_random_state_is_unchanged(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    adapt(untrained(), tmp_path, changed(steps=2))
    assert torch.equal(torch.get_rng_state(), before)


def test_bf16_adaptation_learns(trained: nn.Module, tmp_path: Path) -> None:
    result = adapt(trained, tmp_path, changed(steps=60), precision="bf16-mixed")
    assert accuracy(result.reader, *real_test()) > accuracy(trained, *real_test())
    assert all(p.dtype is torch.float32 for p in result.reader.parameters())


# The prior.


@st.composite
def distributions(draw: st.DrawFn) -> Tensor:
    """Probabilities (B, L, K), some of them zero or nearly zero."""
    B, L, K = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(2, 6))
    logits = np.random.default_rng(draw(st.integers(0, 10**6))).normal(
        0, draw(st.sampled_from([0.1, 1, 10, 100])), (B, L, K)
    )
    return torch.from_numpy(logits).float().softmax(-1)


@given(read=distributions(), updates=st.integers(0, 50))
def test_aligned_rows_are_distributions(read: Tensor, updates: int) -> None:
    prior = DistributionAlignment(read.shape[-1])
    for _ in range(updates):
        prior.update(read.mean((0, 1)))
    aligned = prior.align(read)
    assert aligned.shape == read.shape
    assert (aligned >= 0).all()
    torch.testing.assert_close(aligned.sum(-1), torch.ones(read.shape[:-1]))
    torch.testing.assert_close(prior.frequencies.sum(), torch.tensor(1.0))


def test_a_new_prior_changes_nothing() -> None:
    read = torch.tensor([[[0.7, 0.2, 0.1]]])
    torch.testing.assert_close(DistributionAlignment(3).align(read), read)


@pytest.mark.parametrize("skewed", [[0.7, 0.2, 0.1], [0.98, 0.01, 0.01]])
def test_alignment_moves_a_skewed_alphabet_to_a_uniform_one(skewed: list[float]) -> None:
    prior, read = DistributionAlignment(3), torch.tensor([[skewed]])
    for _ in range(2000):
        prior.update(prior.align(read).mean((0, 1)))
    torch.testing.assert_close(prior.align(read), torch.full((1, 1, 3), 1 / 3), rtol=0.02, atol=0)


def test_an_over_predicted_class_loses_close_decisions() -> None:
    prior = DistributionAlignment(2)
    for _ in range(100):
        prior.update(torch.tensor([0.9, 0.1]))
    close = torch.tensor([[[0.6, 0.4]]])
    assert prior.align(close).argmax(-1).item() == 1


def test_a_class_that_is_never_read_is_not_read_everywhere() -> None:
    prior, read = DistributionAlignment(3), torch.tensor([[[0.5, 0.5, 0.0]]])
    for _ in range(2000):
        prior.update(prior.align(read).mean((0, 1)))
    assert torch.isfinite(prior.bias).all()
    sure = prior.align(torch.tensor([[[0.999, 0.0, 0.001]]]))
    assert sure.argmax(-1).item() == 0


def test_old_readings_fade() -> None:
    prior = DistributionAlignment(CLASSES)
    for wanted in (0, 1):
        for _ in range(600):
            prior.update(nn.functional.one_hot(torch.tensor(wanted), CLASSES).float())
        assert prior.frequencies.argmax() == wanted
        assert prior.frequencies[wanted] > 0.99


def test_empty_slots_are_not_aligned() -> None:
    """Only the classes of the alphabet are aligned."""
    prior, read = DistributionAlignment(4, blank=3), torch.tensor([[[0.12, 0.06, 0.12, 0.7]]])
    for _ in range(2000):
        prior.update(prior.align(read).mean((0, 1)))
    aligned = prior.align(read)[0, 0]
    assert prior.bias[3] == 0
    torch.testing.assert_close(aligned[:3], aligned[:3].mean().expand(3), rtol=0.05, atol=0)
    assert 0.6 < aligned[3] < 0.8


# Batch normalisation.


def test_frozen_statistics() -> None:
    layer = nn.Sequential(nn.BatchNorm2d(1), nn.Sequential(nn.BatchNorm2d(1, momentum=0.3)))
    layer.train()
    images = torch.randn(8, 1, 4, 4) * 9 + 5
    before = [(m.clone(), v.clone()) for m, v in statistics(layer)]
    with frozen_statistics(layer):
        normalised = layer(images)
    assert abs(normalised.mean().item()) < 1e-3  # with the statistics of the batch
    assert abs(normalised.std().item() - 1) < 0.05
    for old, new in zip(before, statistics(layer), strict=True):
        assert torch.equal(old[0], new[0])
        assert torch.equal(old[1], new[1])
    layer(images)
    assert not torch.equal(statistics(layer)[0][0], before[0][0])


def test_frozen_statistics_end_even_with_an_error() -> None:
    layers = [nn.BatchNorm2d(1), nn.BatchNorm2d(1, momentum=0.3), nn.BatchNorm2d(1, momentum=None)]

    def stop_inside() -> None:
        with frozen_statistics(nn.ModuleList(layers)):
            assert [layer.momentum for layer in layers] == [0.0, 0.0, 0.0]
            raise Stop

    with pytest.raises(Stop):
        stop_inside()
    assert [layer.momentum for layer in layers] == [0.1, 0.3, None]
