"""Class balance: biases against classes that are read too often, as far as that costs little.

Shapes: M characters, A classes of the alphabet.
"""

import numpy as np

from simgan_captcha.types import Doubles, Floats

MOST_BIAS = 2.0
"""Largest absolute bias of a logit in self-training: a factor of 7."""
_DAMPING = 0.1
_ITERATIONS = 200
_RAREST = 0.05
"""A class that is read less often, in units of 1 / A, counts as read that often."""


def balancing_biases(probabilities: Floats, strength: float, most: float) -> Doubles:
    """Biases (A,) of the logits that pull the frequencies of classes toward equal ones.

    They solve b_k = -strength * log(A f_k(b)), where f_k(b) is the mean over all characters of
    p_k exp(b_k) / sum_j p_j exp(b_j). This is the maximum a posteriori estimate if b_k and
    log(A f_k) have normal priors around 0. A class that is read too often because of a shifted
    decision boundary needs a small bias; one that is really frequent is read with confidence, so a
    small bias changes little.

    Source: Saerens, Latinne and Decaestecker 2002, who adjust to known frequencies.

    Args:
        probabilities: (M, A) of the characters, at least one; each row sums to 1.
        strength: How much a deviation from equal frequencies counts; 0 gives no biases.
        most: Largest absolute bias.
    """
    classes = probabilities.shape[1]
    bias = np.zeros(classes)
    for _ in range(_ITERATIONS):
        weighted = probabilities * np.exp(bias)
        frequencies = (weighted / weighted.sum(1, keepdims=True)).mean(0)
        wanted = -strength * np.log(np.maximum(classes * frequencies, _RAREST))
        bias += _DAMPING * (np.clip(wanted, -most, most) - bias)
    return bias
