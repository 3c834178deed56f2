"""Class balance: biases against classes that are read too often, as far as that costs little.

Shapes: M characters, A classes of the alphabet.
"""

import numpy as np
import numpy.typing as npt

from simgan_captcha.types import Doubles, Floats

_MOST_BIAS = 2.0
"""Largest absolute bias of a logit: a factor of 7."""
_DAMPING = 0.1
_ITERATIONS = 200
_RAREST = 0.05
"""A class that is read less often, in units of 1 / n, counts as read that often."""
_LEAST_TOTAL = 1e-9


def balancing_biases(
    probabilities: Floats, balanced: npt.NDArray[np.bool_], strength: float
) -> Doubles:
    """Biases (A,) of the logits that pull the frequencies of classes toward equal ones.

    They solve b_k = -strength * log(n f_k(b)) for the n balanced classes. Here f_k(b) is the share
    of class k in the sum over all characters of p_k exp(b_k) / sum_j p_j exp(b_j). This is the
    maximum a posteriori estimate if b_k and log(n f_k) have normal priors around 0. A class may be
    read too often because of a shifted decision boundary; a small bias mends that. A class that is
    really frequent is read with confidence, so a small bias changes little.

    Source: Saerens, Latinne and Decaestecker 2002, who adjust to known frequencies.

    Args:
        probabilities: (M, A) of the characters, at least one; each row sums to 1.
        balanced: (A,) classes to balance. Others, such as the signs of sums, have frequencies of
            their own, and a bias of 0.
        strength: How much a deviation from equal frequencies counts; 0 gives no biases.
    """
    bias, classes = np.zeros(len(balanced)), int(balanced.sum())
    for _ in range(_ITERATIONS if classes > 1 else 0):
        weighted = probabilities * np.exp(bias)
        totals = (weighted / weighted.sum(1, keepdims=True)).sum(0)[balanced]
        relative = classes * totals / max(totals.sum(), _LEAST_TOTAL)
        wanted = np.clip(-strength * np.log(np.maximum(relative, _RAREST)), -_MOST_BIAS, _MOST_BIAS)
        bias[balanced] += _DAMPING * (wanted - bias[balanced])
    return bias


def balanced_classes(characters: str) -> npt.NDArray[np.bool_]:
    """(A,) which characters are letters or digits, which most texts draw about equally often."""
    return np.array([character.isalnum() for character in characters])
