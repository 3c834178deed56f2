"""The losses of SimGAN, arXiv:1612.07828, sections 2.1 and 2.2, and newer alternatives.

Shapes: B batch, C channel, H and W in pixels, h and w rows and columns of patches.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simgan_captcha.errors import ShapeError
from simgan_captcha.simgan.networks import REAL, REFINED


def self_regularization_loss(refined: Tensor, synthetic: Tensor) -> Tensor:
    """Mean absolute change by the refiner; a small change preserves the labels.

    Args:
        refined: Refiner output, (B, C, H, W), float, grey levels in [-1, 1].
        synthetic: The same images before refining, of the same shape and on the same device.

    Returns:
        Scalar in grey levels per pixel, from 0 (unchanged) to 2.

    Raises:
        ShapeError: The shapes differ; the message shows both.

    Source:
        SimGAN, equation 4, self-regularization with identity features. Deviation: mean over pixels
        in place of the sum, so the same weight fits every image size. A sum would be much larger
        than the adversarial loss, which is a mean, and the refiner would learn the identity.

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
    """Cross-entropy of local patches with one class, averaged over patches and batch.

    With the true class of the images, it is the loss of the discriminator. With `REAL` for refined
    images, it is the loss of the refiner.

    Args:
        logits: Logits of the discriminator, (B, 2, h, w), float.
        target: `REAL` (0) or `REFINED` (1).

    Returns:
        Scalar in nats; ln 2 = 0.693 if both classes are equally likely.

    Raises:
        ShapeError: The logits are not (B, 2, h, w).

    Source:
        SimGAN, section 2.2. Deviation: mean over patches in place of the sum, for the reason given
        in `self_regularization_loss`.

    Example:
        >>> round(local_adversarial_loss(torch.zeros(4, 2, 3, 3), target=1).item(), 3)
        0.693
    """
    _check_logits(logits)
    targets = torch.full_like(logits[:, 0], target, dtype=torch.long)
    return F.cross_entropy(logits.float(), targets)


def margins(logits: Tensor) -> Tensor:
    """Logit of `REAL` minus logit of `REFINED` of each patch, (B, h, w), from (B, 2, h, w) logits.

    Raises:
        ShapeError: The logits are not (B, 2, h, w).
    """
    _check_logits(logits)
    return logits[:, REAL].float() - logits[:, REFINED].float()


def hinge_loss(logits: Tensor, target: int) -> Tensor:
    """Hinge loss of the discriminator. It is 0 for patches with a correct margin of at least 1.

    Args:
        logits: Logits of the discriminator, (B, 2, h, w), float.
        target: `REAL` (0) or `REFINED` (1), the true class of the images.

    Returns:
        Scalar: the mean of max(0, 1 - m) over patches, where m is the margin of the true class. It
        is 1 if both classes are equally likely.

    Source:
        Geometric GAN, arXiv:1705.02894, equation 14. Not in SimGAN.

    Example:
        >>> hinge_loss(torch.zeros(4, 2, 3, 3), target=1).item()
        1.0
    """
    margin = margins(logits)
    return F.relu(1 - (margin if target == REAL else -margin)).mean()


def hinge_refiner_loss(logits: Tensor) -> Tensor:
    """Hinge loss of the refiner: minus the mean margin of refined patches, a scalar."""
    return -margins(logits).mean()


def r1_penalty(discriminator: nn.Module, real: Tensor) -> Tensor:
    """Half the mean squared gradient of the discriminator at real images.

    Args:
        discriminator: Network from images (B, C, H, W) to logits (B, 2, h, w).
        real: Real images, (B, C, H, W), float.

    Returns:
        Scalar. It is differentiable with respect to the weights of the discriminator.

    Source:
        Mescheder et al., arXiv:1801.04406, equation 9. Deviations: the margins are summed over
        patches, and the squared gradient is averaged over pixels. So the same weight fits every
        image size.
    """
    leaf = real.detach().requires_grad_(True)
    images = leaf.view_as(leaf)  # torch's FLOP counter does not support the gradient of a leaf
    (gradient,) = torch.autograd.grad(
        margins(discriminator(images)).sum(), images, create_graph=True
    )
    return gradient.square().mean() / 2


def flow_roughness(flow: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring vectors of a flow field (B, 2, H, W), a scalar.

    Its unit is pixels per pixel.

    Source:
        Total variation of a flow, as in spatially transformed images, arXiv:1801.02612, equation 4.
        Deviation: absolute differences.
    """
    return flow.diff(dim=2).abs().mean() + flow.diff(dim=3).abs().mean()


def consistency_loss(on_refined: Tensor, on_synthetic: Tensor) -> Tensor:
    """Cross-entropy between the predictions of a recognizer before and after refining.

    Args:
        on_refined: Logits of the recognizer for refined images, (..., K), float. They receive the
            gradient.
        on_synthetic: Logits for the same images before refining, without gradient.

    Returns:
        Scalar in nats.

    Source:
        The semantic-consistency loss of CyCADA, arXiv:1711.03213, equation 4. Deviation: soft
        labels in place of hard ones. SimGAN has no such loss. Its L1 term limits the change of
        pixels, which protects the text only roughly: the gap that distinguishes i from l is a few
        pixels.

    Example:
        >>> sure = torch.tensor([[9.0, -9.0]])
        >>> consistency_loss(sure, sure).item() < 1e-6 < consistency_loss(-sure, sure).item()
        True
    """
    before = on_synthetic.detach().float().softmax(-1)
    return -(before * on_refined.float().log_softmax(-1)).sum(-1).mean()


def patch_accuracy(logits: Tensor, target: int) -> Tensor:
    """Fraction of patches that (B, 2, h, w) logits assign to the class ``target``, in [0, 1].

    Raises:
        ShapeError: The logits are not (B, 2, h, w).
    """
    _check_logits(logits)
    return (logits.argmax(dim=1) == target).float().mean()


def _check_logits(logits: Tensor) -> None:
    if logits.ndim != 4 or logits.shape[1] != 2:
        raise ShapeError(
            f"expected logits of (B, 2, h, w), got {tuple(logits.shape)}; "
            "give the discriminator's output as it is"
        )
