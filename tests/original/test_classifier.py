from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from simgan_captcha.errors import RunError
from simgan_captcha.original.classifier import (
    CHECKPOINT,
    ClassifierSettings,
    examine,
    train_classifier,
)
from simgan_captcha.original.network import OriginalRecognizer

SETTINGS = ClassifierSettings(learning_rate=0.05, examine_every=5, examined=2, most_steps=200)


class Linear(nn.Module):
    """Two slots of two classes, from the mean of each half of an image."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(2, 4)

    def forward(self, images: Tensor) -> Tensor:
        halves = images[:, 0].unflatten(2, (2, -1)).mean((1, 3))
        logits: Tensor = self.layer(halves).view(-1, 2, 2)
        return logits


def halves(seed: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
    """A bright half is class 1."""
    while True:
        draws = torch.Generator().manual_seed(seed * 10_000 + first)
        ids = torch.randint(2, (16, 2), generator=draws)
        images = (ids * 2.0 - 1).view(16, 1, 1, 2).repeat_interleave(4, 3).expand(-1, 2, 4, -1)
        yield images, ids
        first += 1


def train(folder: Path, settings: ClassifierSettings = SETTINGS, stop: int = 0) -> tuple[int, ...]:
    network = Linear()

    def on_step(step: int) -> None:
        if step == stop:
            raise KeyboardInterrupt

    trained = train_classifier(
        network, lambda n: halves(1, n), lambda n: halves(2, n), settings, folder, on_step
    )
    assert not network.training
    assert trained.synthetic_accuracy == examine(network, lambda n: halves(2, n), 2)
    assert trained.flops > 0
    return trained.steps, round(1000 * trained.synthetic_accuracy)


def test_it_trains_until_it_reads_its_own_images(tmp_path: Path) -> None:
    steps, accuracy = train(tmp_path)
    assert 5 < steps < 200
    assert steps % 5 == 0
    assert accuracy >= 970


def test_it_ends_after_the_most_steps(tmp_path: Path) -> None:
    steps, accuracy = train(tmp_path, SETTINGS.model_copy(update={"most_steps": 2}))
    assert steps == 2
    assert accuracy < 970


def test_a_stopped_training_goes_on(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", stop=8)
    assert train(tmp_path / "stopped") == train(tmp_path / "whole")
    same = [(tmp_path / name / CHECKPOINT).read_bytes() for name in ("stopped", "whole")]
    assert same[0] == same[1]
    with pytest.raises(RunError, match="of these settings"):
        train(tmp_path / "whole", SETTINGS.model_copy(update={"target": 0.5}))


def test_a_quarter_of_the_features_costs_less_than_a_fifth() -> None:
    costs = []
    for features in (128, 32):
        with FlopCounterMode(display=False) as counter:
            OriginalRecognizer(50, 100, 4, 36, features)(torch.zeros(1, 2, 50, 100))
        costs.append(counter.get_total_flops() / 2e6)
    assert costs[0] == pytest.approx(333, rel=0.02)
    assert costs[1] < costs[0] / 5
