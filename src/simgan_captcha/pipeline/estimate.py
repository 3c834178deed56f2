"""Estimates the accuracy of a recognizer without labels, and warns of unusual readings.

Synthetic images with known texts show the accuracy and the confidence of a recognizer. Real images
show only its confidence. The difference of the two mean confidences is about the difference of the
two accuracies (difference of confidences, Guillory et al., arXiv:2107.03315).
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simgan_captcha.errors import RunError
from simgan_captcha.pipeline.manifest import require_manifest

if TYPE_CHECKING:
    from simgan_captcha.inference.readings import Reading

FAILURE = "failure"
"""Key of the reason why a calibration failed, in the result of its stage."""

FEWEST_OF_PAIR = 3
"""Least number of occurrences on known images for a confusion to be listed."""

_SHIFT, _SLOPE = -2.02, 1.46
"""a and b, see `estimate_from_confidence`."""
_BELOW, _ABOVE = 0.92, 1.41
"""How far the interval reaches below and above the estimate, as log odds."""
_NEAREST = 0.005
"""Distance from 0 and 1 within which shares count as this far from them, see `logit`."""

_SURPRISE = 8.0  # nats: four standard deviations of a large sample
_UNUSUAL = 0.05  # relative difference from the expected share below which there is no warning


@dataclass(frozen=True)
class Estimate:
    """Share of captchas that a recognizer reads completely right, estimated without labels."""

    accuracy: float
    """0 to 1, like the ends of its interval."""
    low: float
    high: float
    known_accuracy: float | None = None
    """Accuracy on synthetic images with known texts; None if no simulator was fitted."""

    def __post_init__(self) -> None:
        known = 0.0 if self.known_accuracy is None else self.known_accuracy
        if not (0 <= self.low <= self.accuracy <= self.high <= 1 and 0 <= known <= 1):
            raise ValueError(f"expected 0 <= low <= accuracy <= high <= 1, got {self}")


def estimate_accuracy(
    known: "Sequence[Reading]", truths: Sequence[str], real: "Sequence[Reading]"
) -> Estimate:
    """Estimate the accuracy on real images from readings of known and of real images.

    The interval covers the sampling error (95 %). It contains both the accuracy on known images and
    the corrected accuracy, because either may be closer to the truth. It begins below the mean
    confidence on real images. Doubts that are groundless on known images may be justified there.

    Args:
        known: Readings of synthetic images, at least one.
        truths: The true texts of the synthetic images.
        real: Readings of real images by the same recognizer, at least one.
    """
    right = [float(r.text == truth) for r, truth in zip(known, truths, strict=True)]
    of_known, of_real = [r.confidence for r in known], [r.confidence for r in real]
    simulated = _mean(right)
    accuracy = simulated - _mean(of_known) + _mean(of_real)
    beyond = [hit - confidence for hit, confidence in zip(right, of_known, strict=True)]
    # One extra hit and one extra miss, because a sample without errors does not prove zero errors.
    doubt = _variance([*beyond, 1.0, -1.0])
    # Sampling error of the real images.
    shown = _share(accuracy) * (1 - _share(accuracy))
    error = 1.96 * math.sqrt(doubt / len(beyond) + shown / len(real))
    return Estimate(
        accuracy=_share(accuracy),
        low=_share(min(accuracy, simulated, _mean(of_real)) - error),
        high=_share(max(accuracy, simulated) + error),
        known_accuracy=simulated,
    )


def estimate_from_confidence(taught: float) -> Estimate:
    """Estimate the accuracy of a distilled recognizer, which has no synthetic images of its family.

    The accuracy is sigmoid(a + b logit(taught)). Both constants, and the ends of the interval, are
    fitted by ``benchmarks/estimate_calibration.py`` to synthetic families in fonts that the
    generalist never saw. No real images are used. There, each recognizer learned the texts of the
    one before, not yet those of the generalist in turn. Further terms made the estimate worse: how
    often teacher and recognizer agree, how sure the recognizer is, and how stable its readings are.

    Args:
        taught: Mean confidence of the teacher (the generalist before the last round), 0 to 1.
    """
    middle = _SHIFT + _SLOPE * logit(taught)
    accuracy, low, high = (_sigmoid(middle + side) for side in (0.0, -_BELOW, _ABOVE))
    # Nothing bounds the accuracy from above where the teacher never hesitates.
    return Estimate(accuracy, low, 1.0 if taught >= 1 - _NEAREST else high)


def distilled_estimate(run: Path) -> Estimate:
    """The estimated accuracy of a run's distilled recognizer.

    Raises:
        RunError: The stage ``distill`` is not finished, or damaged.
    """
    return _estimate_of(run / "distill")


def checked_estimate(run: Path) -> Estimate:
    """The estimated accuracy of the recognizer that learned from the simulator first.

    Raises:
        RunError: The stage ``check`` is not finished, or damaged.
    """
    return _estimate_of(run / "check")


def checked_rescoring(run: Path) -> bool:
    """Whether the stage ``check`` found that drawings may rescore the readings."""
    try:
        return bool(require_manifest(run / "check")["result"]["rescores"])
    except (RunError, KeyError, TypeError):
        return False


def first_confidence(run: Path) -> float | None:
    """Mean confidence of the generalist's first readings; None if they are missing or damaged."""
    try:
        return float(require_manifest(run / "look")["result"]["confidence"])
    except (RunError, KeyError, TypeError, ValueError):
        return None


def calibration_failure(run: Path) -> str | None:
    """The reason why the calibration of a run failed; None if it did not, or is not finished."""
    try:
        failure = require_manifest(run / "calibrate")["result"].get(FAILURE)
    except (RunError, AttributeError, KeyError, TypeError):
        return None
    return failure if isinstance(failure, str) else None


def _estimate_of(folder: Path) -> Estimate:
    try:
        return Estimate(**require_manifest(folder)["result"]["estimate"])
    except (KeyError, TypeError, ValueError):
        raise RunError(
            f"expected an estimate in the finished stage {folder}, found none; delete that folder "
            "and repeat the run"
        ) from None


def limited_by_agreement(estimate: Estimate, agreement: float, other: Estimate) -> Estimate:
    """Limit an estimate by the estimate of another recognizer of the same images.

    If the other recognizer is right, this one is right only if both agree. So its accuracy is at
    most the agreement plus the error rate of the other: agreement + 1 - other.low.
    """
    return _at_most(estimate, min(1.0, agreement + 1 - other.low))


def _at_most(estimate: Estimate, most: float) -> Estimate:
    return Estimate(
        min(estimate.accuracy, most),
        min(estimate.low, most),
        min(estimate.high, most),
        estimate.known_accuracy,
    )


def accuracy_by_agreement(
    confidences: Sequence[float], alike: Sequence[bool]
) -> tuple[float, float] | None:
    """Accuracy of a recognizer and its standard error, from readings of another recognizer.

    The other recognizer reads image i right with probability c_i. A recognizer of accuracy r that
    errs independently gives the same text with probability r c_i, if equal mistakes are rare.
    Weighted by c_i, r is about sum(c_i a_i) / sum(c_i^2), where a_i is 1 if both texts are equal.

    Args:
        confidences: c_i of the other recognizer, 0 to 1.
        alike: a_i.

    Returns:
        The accuracy, which can exceed 1, and its error; None if all confidences are 0.
    """
    weight = sum(c * c for c in confidences)
    if weight == 0:
        return None
    found = sum(c * float(a) for c, a in zip(confidences, alike, strict=True)) / weight
    return found, math.sqrt(sum(c**3 * (1 - c) for c in confidences)) / weight


def first_is_better(
    first: Sequence[tuple[str, float]], second: Sequence[tuple[str, float]]
) -> bool | None:
    """Whether the first of two recognizers is better, each judged by the readings of the other.

    See `accuracy_by_agreement`.

    Args:
        first: Text and confidence of each image by the first recognizer.
        second: Those of the same images by the second recognizer.

    Returns:
        None if one of them is sure of nothing.
    """
    alike = [one == other for (one, _), (other, _) in zip(first, second, strict=True)]
    of_first = accuracy_by_agreement([confidence for _, confidence in second], alike)
    of_second = accuracy_by_agreement([confidence for _, confidence in first], alike)
    return None if of_first is None or of_second is None else of_first[0] > of_second[0]


def limited_by_readings(
    estimate: Estimate, confidences: Sequence[float], alike: Sequence[bool]
) -> Estimate:
    """Limit an estimate by another recognizer's readings, see `accuracy_by_agreement`.

    The limit is two standard errors above the accuracy.
    """
    found = accuracy_by_agreement(confidences, alike)
    return estimate if found is None else _at_most(estimate, min(1.0, found[0] + 2 * found[1]))


def diagnose(
    real: "Sequence[Reading]",
    known: "Sequence[Reading]",
    truths: Sequence[str],
    estimates: Mapping[str, Estimate],
    kept: str,
    alphabet: str,
) -> dict[str, Any]:
    """The estimates, the share of each character, likely confusions and warnings, as JSON.

    Args:
        real: Readings of all real images by the kept recognizer.
        known: Its readings of synthetic images; empty if no simulator was fitted.
        truths: The true texts of the synthetic images.
        estimates: Estimates of all recognizers of the run, by stage, in the order of training.
        kept: Stage of the kept recognizer.
        alphabet: At least two characters, all expected equally often.
    """
    shares = character_shares(real, alphabet)
    confusions = known_confusions(known, truths)
    characters = sum(len(reading.text) for reading in real)
    # The check on shares applies only if texts are random, as those of the simulator are.
    simulated = estimates[kept].known_accuracy is not None
    return {
        "kept": kept,
        "estimates": {stage: asdict(estimate) for stage, estimate in estimates.items()},
        "expected_share": 1 / len(alphabet),
        "shares": shares,
        "confusions": confusions,
        "warnings": [
            *_worse(estimates, kept),
            *(_unusual_shares(shares, characters, confusions) if simulated else ()),
        ],
    }


def character_shares(readings: "Sequence[Reading]", alphabet: str) -> dict[str, float]:
    """The share of each character of the alphabet in all readings, 0 to 1."""
    counts = Counter(character for reading in readings for character in reading.text)
    return {c: counts[c] / max(1, counts.total()) for c in alphabet}


def read_as(truths: Sequence[str], texts: Sequence[str]) -> Counter[tuple[str, str]]:
    """Counts of (true character, read character), in texts of the same length."""
    return Counter(
        pair
        for truth, text in zip(truths, texts, strict=True)
        if len(truth) == len(text)
        for pair in zip(truth, text, strict=True)
    )


def known_confusions(known: "Sequence[Reading]", truths: Sequence[str]) -> list[dict[str, Any]]:
    """Confusions of characters on known images, most common first.

    A share, 0 to 1, is relative to all readings of the true character. Readings with a wrong length
    are left out.
    """
    pairs = read_as(truths, [reading.text for reading in known])
    drawn: Counter[str] = Counter()
    for (true, _), count in pairs.items():
        drawn[true] += count
    mistakes = Counter({pair: count for pair, count in pairs.items() if pair[0] != pair[1]})
    return [
        {"truth": true, "read": read, "share": count / drawn[true]}
        for (true, read), count in mistakes.most_common(12)
        if count >= FEWEST_OF_PAIR
    ]


def _worse(estimates: Mapping[str, Estimate], kept: str) -> list[str]:
    used = estimates[kept].accuracy
    later = list(estimates)[list(estimates).index(kept) + 1 :]
    return [
        f"the reader of {stage} is estimated to read {estimates[stage].accuracy:.1%} right, "
        f"that of {kept} {used:.1%}: "
        + (
            "the later training did not improve it and is not used"
            if estimates[stage].accuracy <= used
            else "judged by each other's readings, it is the worse one and is not used"
        )
        for stage in later
    ]


def _unusual_shares(
    shares: Mapping[str, float], characters: int, confusions: Sequence[Mapping[str, Any]]
) -> list[str]:
    expected = 1 / len(shares)
    sentences = []
    for character, share in shares.items():
        surprise = characters * _divergence(share, expected)
        if surprise < _SURPRISE or abs(share - expected) < _UNUSUAL * expected:
            continue
        way = "less" if share < expected else "more"
        figures = f"{character!r} is read {share:.2%} of the time, {expected:.2%} expected: "
        alike = sorted(
            {c["read"] for c in confusions if c["truth"] == character}
            | {c["truth"] for c in confusions if c["read"] == character}
        )
        reason = (
            f"it is easily confused with {' or '.join(map(repr, alike))}"
            if alike
            else "its shape may differ from what the simulator draws, see calibrate/glyphs.png"
        )
        sentences.append(f"{figures}{way} than chance allows; {reason}")
    return sentences


def _divergence(share: float, expected: float) -> float:
    """KL divergence D in nats; n draws deviate so far with p <= exp(-n D) (Hoeffding 1963)."""
    return sum(
        part * math.log(part / whole)
        for part, whole in ((share, expected), (1 - share, 1 - expected))
        if part > 0
    )


def logit(share: float) -> float:
    """The log odds of a share; shares near 0 or 1 count as 0.005 and 0.995."""
    inside = min(1 - _NEAREST, max(_NEAREST, share))
    return math.log(inside / (1 - inside))


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _variance(values: Sequence[float]) -> float:
    middle = _mean(values)
    return sum((value - middle) ** 2 for value in values) / len(values)


def _share(value: float) -> float:
    return min(1.0, max(0.0, value))
