"""The losses of SimGAN, arXiv:1612.07828, sections 2.1 and 2.2."""

import torch
from torch import Tensor
from torch.nn import functional as F

from simgan_captcha.errors import ShapeError


def self_regularization_loss(refined: Tensor, synthetic: Tensor) -> Tensor:
    """Mean absolute change the refiner made, so that labels stay true.

    Args:
        refined: Refiner output, (B, C, H, W), float, grey levels in [-1, 1].
        synthetic: The same images before refining; same shape and device.

    Returns:
        Scalar, in grey levels per pixel; 0 means unchanged, 2 is the maximum.

    Raises:
        ShapeError: Shapes differ; the message shows both.

    Source:
        SimGAN, equation 4, self-regularization with identity features. Deviation: mean over
        pixels, not sum, so its weight means the same for every image size. A sum against a mean
        adversarial loss drowns the latter, and the refiner learns the identity.

    Example:
        >>> grey, white = torch.full((2, 1, 8, 8), 0.5), torch.ones(2, 1, 8, 8)
        >>> self_regularization_loss(grey, white).item()
        0.5
    """
    if refined.shape != synthetic.shape:
        raise ShapeError(
            f"expected refined and synthetic images of one shape, got {tuple(refined.shape)} and "
            f"{tuple(synthetic.shape)}; refine without resizing"
        )
    return (refined - synthetic).abs().mean()


def local_adversarial_loss(logits: Tensor, target: int) -> Tensor:
    """Cross-entropy of every local patch with one class, averaged over patches and batch.

    The discriminator's loss with the class its images have; the refiner's with `REAL` on refined
    images.

    Args:
        logits: The discriminator's, (B, 2, h, w), float.
        target: `REAL` (0) or `REFINED` (1).

    Returns:
        Scalar, in nats; ln 2 = 0.693 when undecided.

    Raises:
        ShapeError: Not (B, 2, h, w).

    Source:
        SimGAN, section 2.2. Deviation: mean over patches, not sum, for the reason given at
        `self_regularization_loss`.

    Example:
        >>> round(local_adversarial_loss(torch.zeros(4, 2, 3, 3), target=1).item(), 3)
        0.693
    """
    _check_logits(logits)
    targets = torch.full_like(logits[:, 0], target, dtype=torch.long)
    return F.cross_entropy(logits.float(), targets)


def consistency_loss(on_refined: Tensor, on_synthetic: Tensor) -> Tensor:
    """Cross-entropy of what a recogniser reads of refined images with what it read before.

    Args:
        on_refined: Its logits, (..., K), float; the gradient goes through them.
        on_synthetic: Its logits of the same images before refining; taken as they are.

    Returns:
        Scalar, in nats.

    Source:
        The semantic-consistency loss of CyCADA, arXiv:1711.03213, equation 4; there of hard labels,
        here of soft ones. Not in SimGAN, whose L1 term guards pixels and so the text only roughly:
        a gap that tells i from l is few pixels.

    Example:
        >>> sure = torch.tensor([[9.0, -9.0]])
        >>> consistency_loss(sure, sure).item() < 1e-6 < consistency_loss(-sure, sure).item()
        True
    """
    before = on_synthetic.detach().float().softmax(-1)
    return -(before * on_refined.float().log_softmax(-1)).sum(-1).mean()


def patch_accuracy(logits: Tensor, target: int) -> Tensor:
    """Fraction of patches in (B, 2, h, w) logits given the class ``target``; scalar in [0, 1].

    Raises:
        ShapeError: Not (B, 2, h, w).
    """
    _check_logits(logits)
    return (logits.argmax(dim=1) == target).float().mean()


def _check_logits(logits: Tensor) -> None:
    if logits.ndim != 4 or logits.shape[1] != 2:
        raise ShapeError(
            f"expected logits of (B, 2, h, w), got {tuple(logits.shape)}; "
            "give the discriminator's output as it is"
        )
