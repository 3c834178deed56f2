"""Confidence intervals of shares."""

import math

from simgan_captcha.errors import UsageError

_Z_95 = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution: 95 % of it lie within +- this value."""


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % score interval of a share, (low, high) within [0, 1]; (0, 1) without trials.

    Raises:
        UsageError: The numbers are not 0 <= successes <= trials.

    Source:
        E. B. Wilson, Probable inference, the law of succession, and statistical inference, 1927.

    Example:
        >>> low, high = wilson_interval(9, 10)
        >>> round(low, 4), round(high, 4)
        (0.5958, 0.9821)
    """
    if not 0 <= successes <= trials:
        raise UsageError(f"expected 0 <= successes <= trials, got {successes} of {trials}")
    if trials == 0:
        return 0.0, 1.0
    share = successes / trials
    scale = 1 + _Z_95**2 / trials
    centre = (share + _Z_95**2 / (2 * trials)) / scale
    spread = _Z_95 / scale * math.sqrt(share * (1 - share) / trials + _Z_95**2 / (4 * trials**2))
    # If the share is 0 or 1, rounding errors may put an end on the wrong side of it.
    return max(0.0, min(centre - spread, share)), min(1.0, max(centre + spread, share))
