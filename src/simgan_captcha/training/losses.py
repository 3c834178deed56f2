"""Losses that several subpackages use."""

from torch import Tensor

FORGIVENESS = 0.7
"""Usual exponent of `generalized_cross_entropy`."""
LEAST_FORGIVENESS = 0.02
"""Exponent with which it is almost the cross-entropy."""
_LEAST_PROBABILITY = 1e-6


def generalized_cross_entropy(p: Tensor, q: Tensor | float) -> Tensor:
    """Mean of (1 - p^q) / q over probabilities p of texts that may be wrong.

    q = 0 is the cross-entropy, q = 1 the mean absolute error. The higher q is, the less improbable
    texts count.

    Source: arXiv:1805.07836.
    """
    return ((1 - p.clamp_min(_LEAST_PROBABILITY) ** q) / q).mean()
