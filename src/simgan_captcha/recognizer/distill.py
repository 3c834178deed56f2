"""Distillation: a light recognizer learns the texts that a larger reader gave to real images.

Some of these texts are wrong. The recognizer starts from random weights and takes few steps. It
learns what most images of a shape have in common first, and the mistakes by heart only later
(Arpit et al., arXiv:1706.05394). Its loss forgives texts that it finds improbable.

Sources: knowledge distillation (arXiv:1503.02531), here of texts, not of probabilities; generalized
cross-entropy (arXiv:1805.07836).

Shapes: N images of H x W pixels, B of them in a batch, L characters, K classes.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from simgan_captcha.data.background import Background
from simgan_captcha.recognizer.augment import AUGMENTATION, augment
from simgan_captcha.recognizer.train import draw_seed
from simgan_captcha.training.known_texts import draw_numbers, known_of_batch
from simgan_captcha.training.losses import (
    FORGIVENESS,
    LEAST_FORGIVENESS,
    generalized_cross_entropy,
)
from simgan_captcha.training.streams import LabelledStream
from simgan_captcha.types import GreyImages, Ids


def forgiving_objective(
    logits: Tensor, ids: Tensor, *, known: int = 0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Generalized cross-entropy of all characters, from logits (B, L, K) and class ids (B, L).

    The mean of (1 - p^q) / q, where p is the probability of a character. q is `FORGIVENESS` times
    the mean probability of the characters of its class in the batch. So texts of a class that is
    not learned yet are not taken for mistakes. With ``known`` texts among all images, the last
    `known_of_batch` texts of the batch are certain, and their q is nearly 0.
    """
    p = logits.float().softmax(-1).gather(-1, ids[..., None]).squeeze(-1)
    of_each, flat = p.detach().flatten(), ids.flatten()
    sums, counts = (
        of_each.new_zeros(logits.shape[-1]).index_add_(0, flat, values)
        for values in (of_each, torch.ones_like(of_each))
    )
    q = (FORGIVENESS * sums / counts.clamp_min(1)).clamp_min(LEAST_FORGIVENESS)[ids]
    q[len(q) - known_of_batch(known, len(q)) :] = LEAST_FORGIVENESS
    loss = generalized_cross_entropy(p, q)
    return loss, {"loss": loss, "accuracy": (logits.argmax(-1) == ids).float().mean()}


class LabelledImages(NamedTuple):
    """N images with the class ids of their texts."""

    pixels: GreyImages
    """(N, H, W), at least one."""
    ids: Ids
    """(N, L)."""
    known: npt.NDArray[np.bool_]
    """Whether a text is certain (N,); see `known_texts`."""


def labelled_batches(
    images: LabelledImages,
    background: Background,
    batch_size: int,
    seed: int,
    *,
    rank: int = 0,
    processes: int = 1,
) -> LabelledStream:
    """Endless batches of augmented images and the class ids of their texts.

    Args:
        images: With the texts to learn.
        background: Normalises the images.
        batch_size: B, of all processes together.
        seed: Decides the order and the augmentation.
        rank: Of this process, from 0; each has every ``processes``-th image of a batch.
        processes: That share the batches.
    """
    normalised = torch.from_numpy(background.normalise(images.pixels))
    ids, known = torch.from_numpy(images.ids), torch.from_numpy(np.flatnonzero(images.known))
    pool = torch.arange(len(ids))

    def stream(first: int) -> Iterator[tuple[Tensor, Tensor]]:
        number = first
        while True:
            generator = torch.Generator().manual_seed(draw_seed(seed, number, 0))
            chosen = draw_numbers(pool, known, batch_size, generator)[rank::processes]
            yield augment(normalised[chosen], AUGMENTATION, generator), ids[chosen]
            number += 1

    return stream
