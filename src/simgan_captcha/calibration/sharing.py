"""Classes that are read far too often give up what they take from others.

Where the real captchas' font draws an 'a' as most fonts draw a 'q', a scout reads both as 'q', and
is sure. Yet what it thinks of the other classes still tells the two apart, and an alphabet whose
characters are about equally frequent has no room for so many q's. So each class takes no more
characters than its share, and those that think least of it go where they are next likeliest.

This is a transport problem whose classes have a most and no least (a class that never occurs, as an
alphabet may name some, takes nothing from others), solved by Sinkhorn's scaling.

Sources: Sinkhorn distances (Cuturi 2013, arXiv:1306.0895); equal shares against degenerate labels
(Asano, Rupprecht and Vedaldi 2020, arXiv:1911.05371, section 3.1). Deviation: shares are bounded
from above alone, and what comes out are probabilities.

Shapes: N images, L characters, K classes, M characters of all images.
"""

from dataclasses import replace

import numpy as np

from simgan_captcha.calibration.glyph_fit import enough_examples
from simgan_captcha.calibration.poses import Poses
from simgan_captcha.types import Doubles

_LEAST = 1e-30
"""Probability, so that what is all but impossible keeps an order."""
_STEPS = 300
_SETTLED = 1e-3
"""Of a class's share: when no class has so much more than that, scaling ends."""


def share_out(poses: Poses) -> Poses:
    """The same poses with probabilities by which no class has more than its share of characters."""
    likely = poses.probabilities.astype(np.float64).clip(_LEAST)
    characters = likely if poses.absent is None else likely[..., : poses.absent]
    read = characters[poses.present]
    if not len(read):
        return poses
    scaled = characters * class_weights(read)
    # How likely it is that a character stands there stays as it was.
    scaled *= characters.sum(-1, keepdims=True) / scaled.sum(-1, keepdims=True)
    shared = likely.copy()
    shared[..., : characters.shape[-1]] = scaled
    found = replace(poses, probabilities=shared.astype(np.float32))
    # Nor is anybody where nobody was likeliest, or the other way round.
    changed = (found.present != poses.present)[..., None]
    return replace(found, probabilities=np.where(changed, poses.probabilities, found.probabilities))


def class_weights(probabilities: Doubles) -> Doubles:
    """(K,) of 0 to 1: times which probabilities (M, K), all above 0, give none more than its share.

    A share is that of the classes which occur, and as much more as chance has it one time in six.
    When others have been relieved, classes may occur that did not before, and shares are smaller.
    """
    likely = probabilities
    weights = np.ones(likely.shape[1])
    occurring = 0
    while occurring < (now := _occurring(likely * weights)):
        occurring = now
        share = len(likely) / occurring
        most = share + np.sqrt(share)
        for _ in range(_STEPS):
            # What a class would take of every character, were its weight 1.
            taken = (likely / (likely @ weights)[:, None]).sum(0)
            if (taken * weights).max() < most * (1 + _SETTLED):
                break
            weights = np.minimum(1, most / taken)
    return weights


def _occurring(likely: Doubles) -> int:
    """How many classes have enough of M characters, (M, K), for a glyph."""
    taken = (likely / likely.sum(1, keepdims=True)).sum(0)
    return int((taken >= enough_examples(taken)).sum())
