"""Saliency maps: the influence of each pixel on a reading.

Shapes: N images, L characters, K classes, H and W in pixels.
"""

import cv2
import numpy as np
import torch
from torch import nn

from simgan_captcha.types import FloatImages, Floats

_SMOOTHING = 0.03
"""Sigma of the smoothing, as a fraction of the image height. The gradients of single pixels are
noisy, those of a stroke are not."""


def saliency(reader: nn.Module, normalised: FloatImages) -> Floats:
    """Influence of the ink of each pixel on the odds of each character that was read.

    A map is the absolute gradient of the log odds with respect to the ink, smoothed and divided by
    its maximum. Maps therefore show where the influence is, not how large it is.

    Args:
        reader: Recognizer in evaluation mode, (N, 2, H, W) -> logits (N, L, K).
        normalised: (N, 2, H, W) images, see `Background.normalise`.

    Returns:
        (N, L, H, W) float32 in [0, 1].

    Source:
        Simonyan et al., Deep Inside Convolutional Networks, arXiv:1312.6034, section 3. Deviations:
        maps are smoothed, and use the log odds against all other classes. A single score also grows
        where all scores grow, and a probability near 1 has no gradient.
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
    # A reading that depends on no pixel, as in an untrained network, has an empty map.
    greatest = np.maximum(smooth.max((1, 2), keepdims=True), np.finfo(np.float32).tiny)
    return np.asarray((smooth / greatest).reshape(maps.shape), np.float32)
