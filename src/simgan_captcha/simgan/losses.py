"""The losses of SimGAN, arXiv:1612.07828, sections 2.1 and 2.2, and later ones in their place.

Shapes: B batch, C channel, H and W in pixels, h and w rows and columns of patches.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simgan_captcha.errors import ShapeError
from simgan_captcha.simgan.networks import REAL, REFINED


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


def margins(logits: Tensor) -> Tensor:
    """How much more real than refined each patch looks, (B, h, w), of (B, 2, h, w) logits.

    Raises:
        ShapeError: Not (B, 2, h, w).
    """
    _check_logits(logits)
    return logits[:, REAL].float() - logits[:, REFINED].float()


def hinge_loss(logits: Tensor, target: int) -> Tensor:
    """The discriminator's hinge loss: patches that are right by a margin of 1 cost nothing.

    Args:
        logits: The discriminator's, (B, 2, h, w), float.
        target: `REAL` (0) or `REFINED` (1), the class that its images have.

    Returns:
        Scalar: mean of max(0, 1 - m) over patches, with m the margin towards the right class; 1
        when undecided.

    Source:
        Geometric GAN, arXiv:1705.02894, equation 14. Not in SimGAN.

    Example:
        >>> hinge_loss(torch.zeros(4, 2, 3, 3), target=1).item()
        1.0
    """
    margin = margins(logits)
    return F.relu(1 - (margin if target == REAL else -margin)).mean()


def hinge_refiner_loss(logits: Tensor) -> Tensor:
    """The refiner's side of `hinge_loss`: minus the mean margin of refined patches, a scalar."""
    return -margins(logits).mean()


def r1_penalty(discriminator: nn.Module, real: Tensor) -> Tensor:
    """How steep the discriminator is at real images: half its mean squared gradient.

    Args:
        discriminator: (B, C, H, W) -> logits (B, 2, h, w).
        real: Real images, (B, C, H, W), float.

    Returns:
        Scalar. Its gradient reaches the discriminator's weights.

    Source:
        Mescheder et al., arXiv:1801.04406, equation 9. Deviations, so that the weight means the
        same for every image size: the discriminator's margins are summed over patches, and the
        squared gradient is averaged over pixels.
    """
    leaf = real.detach().requires_grad_(True)
    images = leaf.view_as(leaf)  # torch's FLOP counter does not take the gradient of a leaf
    (gradient,) = torch.autograd.grad(
        margins(discriminator(images)).sum(), images, create_graph=True
    )
    return gradient.square().mean() / 2


def flow_roughness(flow: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring vectors of a flow field, (B, 2, H, W); a scalar.

    Source:
        Total variation of a flow, as in spatially transformed images, arXiv:1801.02612, equation 4;
        here absolute differences, in pixels per pixel.
    """
    return flow.diff(dim=2).abs().mean() + flow.diff(dim=3).abs().mean()


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
