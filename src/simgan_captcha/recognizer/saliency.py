"""Which pixels a reading hangs on.

Shapes: N images, L characters, K classes, H and W in pixels.
"""

import cv2
import numpy as np
import torch
from torch import nn

from simgan_captcha.types import FloatImages, Floats

_SMOOTHING = 0.03
"""Of the image's height: single pixels' gradients are noisy, those of a stroke are not."""


def saliency(reader: nn.Module, normalised: FloatImages) -> Floats:
    """How much each pixel's ink moves the odds of each character that was read.

    The size of the gradient of the character's log odds by the ink, smoothed; each map is divided
    by its greatest value, so maps tell where, not how much.

    Args:
        reader: In evaluation mode, (N, 2, H, W) -> logits (N, L, K).
        normalised: (N, 2, H, W), as `Background.normalise` gives them.

    Returns:
        (N, L, H, W) float32 in [0, 1].

    Source:
        Simonyan et al., Deep Inside Convolutional Networks, arXiv:1312.6034, section 3. Deviations:
        log odds against all other classes, as a score alone also grows where all of them do, and
        a probability near 1 has no gradient left; smoothed.
    """
    images = torch.from_numpy(normalised).requires_grad_()
    logits = reader(images).float()
    read = logits.argmax(-1, keepdim=True)
    others = logits.scatter(-1, read, -torch.inf).logsumexp(-1)
    odds = logits.gather(-1, read).squeeze(-1) - others  # (N, L)
    maps = np.stack(
        [
            torch.autograd.grad(odds[:, slot].sum(), images, retain_graph=True)[0][:, 0].numpy()
            for slot in range(odds.shape[1])
        ],
        axis=1,
    )
    sigma = max(1.0, _SMOOTHING * maps.shape[-2])
    flat = np.abs(maps).reshape(-1, *maps.shape[-2:])
    smooth = np.stack([cv2.GaussianBlur(each, (0, 0), sigma) for each in flat])
    # A reading that hangs on no pixel, as of an untrained net, has an empty map.
    greatest = np.maximum(smooth.max((1, 2), keepdims=True), np.finfo(np.float32).tiny)
    return np.asarray((smooth / greatest).reshape(maps.shape), np.float32)
