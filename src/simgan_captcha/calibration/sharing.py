"""Class balancing: limit over-predicted classes by optimal transport.

If the real font draws an 'a' as most fonts draw a 'q', the bootstrap recognizer confidently reads
both as 'q'. Its other probabilities still separate the two, and an alphabet with about equally
frequent characters has fewer q's. So each class keeps at most its share of characters. Those with
the lowest probability move to their next likeliest class.

This is a transport problem, solved by Sinkhorn scaling. Classes have an upper bound but no lower
bound, so characters that never occur attract no samples.

Sources: Sinkhorn distances (Cuturi 2013, arXiv:1306.0895); equal shares against degenerate labels
(Asano, Rupprecht and Vedaldi 2020, arXiv:1911.05371, section 3.1). Deviation: shares are bounded
from above only, and the result is soft probabilities.

Shapes: N images, L characters, K classes, M characters of all images.
"""

from dataclasses import replace

import numpy as np

from simgan_captcha.calibration.glyph_fit import enough_examples
from simgan_captcha.calibration.poses import Poses
from simgan_captcha.types import Doubles

_LEAST = 1e-30
"""Least probability, so that nearly impossible classes keep an order."""
_STEPS = 300
_SETTLED = 1e-3
"""Relative excess over the share at which scaling stops."""


def share_out(poses: Poses) -> Poses:
    """Balance the probabilities so that no class has more than its share of characters."""
    likely = poses.probabilities.astype(np.float64).clip(_LEAST)
    characters = likely if poses.absent is None else likely[..., : poses.absent]
    read = characters[poses.present]
    if not len(read):
        return poses
    scaled = characters * class_weights(read)
    # The total probability of a character stays the same.
    scaled *= characters.sum(-1, keepdims=True) / scaled.sum(-1, keepdims=True)
    shared = likely.copy()
    shared[..., : characters.shape[-1]] = scaled
    found = replace(poses, probabilities=shared.astype(np.float32))
    # Balancing must not change which slots are empty.
    changed = (found.present != poses.present)[..., None]
    return replace(found, probabilities=np.where(changed, poses.probabilities, found.probabilities))


def class_weights(probabilities: Doubles) -> Doubles:
    """Weights (K,), 0 to 1, that limit each class of probabilities (M, K) > 0 to its share.

    The bound is M / C + sqrt(M / C) for C occurring classes, one standard deviation above the
    mean. Balancing can make further classes occur; the bound is then computed again.
    """
    likely = probabilities
    weights = np.ones(likely.shape[1])
    occurring = 0
    while occurring < (now := _occurring(likely * weights)):
        occurring = now
        share = len(likely) / occurring
        most = share + np.sqrt(share)
        for _ in range(_STEPS):
            # Total of each class over the characters, if its weight were 1.
            taken = (likely / (likely @ weights)[:, None]).sum(0)
            if (taken * weights).max() < most * (1 + _SETTLED):
                break
            weights = np.minimum(1, most / taken)
    return weights


def _occurring(likely: Doubles) -> int:
    """Number of classes with enough characters of (M, K) for a glyph."""
    taken = (likely / likely.sum(1, keepdims=True)).sum(0)
    return int((taken >= enough_examples(taken)).sum())
