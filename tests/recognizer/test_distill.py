"""Learning texts of which some are wrong."""

import numpy as np
import pytest
import torch

from simgan_captcha.data.background import plain_background
from simgan_captcha.recognizer.distill import (
    LabelledImages,
    forgiving_objective,
    labelled_batches,
)


def gradients(probabilities: list[float], ids: list[int]) -> list[float]:
    """Of the objective by the logit of each character's own class; the other class has the rest."""
    p = torch.tensor(probabilities)
    own = torch.log(p / (1 - p))
    logits = torch.zeros(1, len(ids), 3)
    for slot, label in enumerate(ids):
        logits[0, slot, label] = own[slot]
        logits[0, slot, (label + 1) % 2] = 0.0
        logits[0, slot, 2] = -30.0
    logits.requires_grad_()
    forgiving_objective(logits, torch.tensor([ids]))[0].backward()
    assert logits.grad is not None
    return [float(-logits.grad[0, slot, label]) for slot, label in enumerate(ids)]


def test_an_improbable_text_of_a_known_class_is_forgiven() -> None:
    """Its cross-entropy would have nine times the gradient of the others."""
    *_, known, improbable = gradients([0.99] * 8 + [0.9, 0.1], [0] * 10)
    assert improbable < 4 * known


def test_improbable_texts_of_a_class_that_is_not_learned_yet_are_learned() -> None:
    improbable = gradients([0.99] * 9 + [0.1], [0] * 9 + [1])[-1]
    assert improbable > 0.75 * 0.9 / 10  # nearly the cross-entropy's gradient, (1 - p) / 10


def test_an_untrained_recognizer_learns_as_by_cross_entropy() -> None:
    logits = torch.zeros(4, 2, 36, requires_grad=True)
    ids = torch.arange(8).view(4, 2)
    loss, figures = forgiving_objective(logits, ids)
    entropy = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())
    assert loss.item() == pytest.approx(entropy.item(), rel=0.05)
    assert set(figures) == {"loss", "accuracy"}


def test_a_batch_is_the_same_from_wherever_it_is_asked_for_and_is_shared_by_processes() -> None:
    images = np.random.default_rng(1).integers(0, 256, (9, 24, 48), dtype=np.uint8)
    labelled = LabelledImages(images, np.arange(9)[:, None], np.arange(9) == 8)
    background = plain_background(24, 48, 200, "relative", 0)

    def batch(number: int, first: int, rank: int = 0, processes: int = 1) -> torch.Tensor:
        stream = labelled_batches(labelled, background, 6, 3, rank=rank, processes=processes)(first)
        for _ in range(first, number):
            next(stream)
        return next(stream)[1]

    assert torch.equal(batch(4, 0), batch(4, 3))
    assert not torch.equal(batch(4, 0), batch(5, 0))
    both = torch.stack([batch(4, 0, rank, 2) for rank in range(2)], 1).flatten()
    assert torch.equal(both, batch(4, 0).flatten())
