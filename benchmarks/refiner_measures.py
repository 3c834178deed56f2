"""Measures of a refiner: whether it keeps the texts, and how realistic its images are.

Shapes: N images, B of them at a time, H and W pixels, F features, L characters.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from simgan_captcha.simgan import (
    REAL,
    REFINED,
    Discriminator,
    DiscriminatorSettings,
    local_adversarial_loss,
)

FRESH = (48, 32, 32, 32)
"""The widths of the new discriminator, which are the same for all refiners."""
STEPS = 300
"""The number of its training steps."""


def measure_refiner(
    synthetic: Tensor,
    refined: Tensor,
    real: Tensor,
    recognizer: nn.Module,
    seed: int,
    steps: int = STEPS,
) -> dict[str, float]:
    """Measure whether refining keeps the texts, and how far refined images are from real ones.

    ``texts_kept`` is the share of images that the reader reads as before refining. It was trained
    on raw images. ``told_from_real`` is the accuracy of a new discriminator. It trains on three
    quarters of the refined and real images and is tested on the rest. Chance is one half.
    ``kernel_distance`` is the squared kernel distance between reader features, as in KID
    (arXiv:1801.01401). It is unbiased, and 0 if both distributions are equal.

    Args:
        synthetic: Raw images, (N, 2, H, W).
        refined: The same images, refined or unchanged.
        real: Real images, (N, 2, H, W).
        recognizer: A reader that was trained on raw images.
        seed: The seed of the new discriminator.
        steps: The number of its training steps.
    """
    before, after = features_and_ids(recognizer, synthetic), features_and_ids(recognizer, refined)
    of_real = features_and_ids(recognizer, real)
    return {
        "texts_kept": float((before[1] == after[1]).all(-1).float().mean()),
        "told_from_real": told_apart(refined[:, :1], real[:, :1], seed, steps),
        "kernel_distance": kernel_distance(after[0], of_real[0]),
    }


@torch.inference_mode()
def features_and_ids(recognizer: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """The inputs of a reader's last layers, (N, F), and the class ids that it reads, (N, L)."""
    seen: list[Tensor] = []
    classify = recognizer.get_submodule("classify")
    hook = classify.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(1)))
    ids = torch.cat([recognizer(batch).argmax(-1) for batch in images.split(100)])
    hook.remove()
    return torch.cat(seen), ids


def told_apart(refined: Tensor, real: Tensor, seed: int, steps: int = STEPS) -> float:
    """The accuracy of a new discriminator on refined and real images, (N, 1, H, W) each."""
    torch.manual_seed(seed)
    discriminator = Discriminator(DiscriminatorSettings(widths=FRESH)).to(refined.device)
    optimizer = torch.optim.Adam(discriminator.parameters(), 1e-3)
    learned = len(refined) * 3 // 4
    for batch in _batches(learned, seed, steps):
        loss = sum(
            (
                local_adversarial_loss(discriminator(images[batch]), target)
                for images, target in _both(refined, real)
            ),
            torch.zeros(()),
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        right = [
            (discriminator(batch).mean((2, 3)).argmax(-1) == target).float()
            for images, target in _both(refined, real)
            for batch in images[learned:].split(100)
        ]
    return float(torch.cat(right).mean())


def _both(refined: Tensor, real: Tensor) -> list[tuple[Tensor, int]]:
    return [(refined, REFINED), (real, REAL)]


def _batches(count: int, seed: int, steps: int, size: int = 32) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(count, (size,), generator=generator) for _ in range(steps))


def kernel_distance(one: Tensor, other: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy with a cubic kernel. Features (N, F), (M, F)."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a.double() @ b.double().T / a.shape[1] + 1) ** 3

    def within(a: Tensor) -> Tensor:
        k, n = kernel(a, a), len(a)
        return (k.sum() - k.diagonal().sum()) / (n * (n - 1))

    return float(within(one) + within(other) - 2 * kernel(one, other).mean())
