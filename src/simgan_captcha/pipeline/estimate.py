"""Estimates a reader's accuracy without labels, and lists what looks wrong in its readings.

Synthetic images with known texts show how often a reader errs and how confident it is. Real images
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

FEWEST_OF_PAIR = 3
"""A confusion that is seen less often on known images is not named."""

_SHIFT, _SLOPE, _SPREAD = -0.75, 1.2, 1.4
"""a, b and the half width of the interval, see `estimate_from_agreement`."""
_NEAREST = 0.02

_SURPRISE = 8.0  # Nats: four standard deviations of a large sample.
_UNUSUAL = 0.05  # Further from what is expected than this, relatively, or it does not matter.


@dataclass(frozen=True)
class Estimate:
    """The share of captchas that a reader reads wholly right, estimated without labels."""

    accuracy: float
    """0 to 1, as are the ends of its interval."""
    low: float
    high: float
    known_accuracy: float | None = None
    """Of known, drawn images; None if no simulator was fitted."""

    def __post_init__(self) -> None:
        known = 0.0 if self.known_accuracy is None else self.known_accuracy
        if not (0 <= self.low <= self.accuracy <= self.high <= 1 and 0 <= known <= 1):
            raise ValueError(f"expected 0 <= low <= accuracy <= high <= 1, got {self}")


def estimate_accuracy(
    known: "Sequence[Reading]", truths: Sequence[str], real: "Sequence[Reading]"
) -> Estimate:
    """Accuracy on real images, from readings of known and of real images.

    The interval covers the sampling error (95 %). It contains both the accuracy on known images and
    the corrected one, as either may be nearer to the truth.

    Args:
        known: Readings of drawn images, at least one.
        truths: Their texts.
        real: Readings of real images by the same reader, at least one.
    """
    right = [float(r.text == truth) for r, truth in zip(known, truths, strict=True)]
    of_known, of_real = [r.confidence for r in known], [r.confidence for r in real]
    simulated = _mean(right)
    accuracy = simulated - _mean(of_known) + _mean(of_real)
    beyond = [hit - confidence for hit, confidence in zip(right, of_known, strict=True)]
    # One hit and one miss more: a sample without an error does not show that there is none.
    doubt = _variance([*beyond, 1.0, -1.0])
    # Even a share that is known exactly shows itself in so many images only about.
    shown = _share(accuracy) * (1 - _share(accuracy))
    error = 1.96 * math.sqrt(doubt / len(beyond) + shown / len(real))
    return Estimate(
        accuracy=_share(accuracy),
        low=_share(min(accuracy, simulated) - error),
        high=_share(max(accuracy, simulated) + error),
        known_accuracy=simulated,
    )


def estimate_from_agreement(
    *, taught: float, agreement: float, sure: float, stability: float
) -> Estimate:
    """Accuracy of a distilled reader, which no synthetic images of its family are known for.

    With x the mean of logit(taught * agreement) and logit(sure * stability), the accuracy is
    sigmoid(a + b x). The constants, and the spread of the logit that the interval is made of, were
    fitted to synthetic families in fonts that the generalist never saw, by
    ``benchmarks/estimate_calibration.py``. No real image had a part in it.

    Args:
        taught: Mean probability of a text by the teacher, the specialized generalist, 0 to 1.
        agreement: Share of images that both read alike, 0 to 1.
        sure: Mean probability of a text by the reader itself.
        stability: Share of images that it reads as the round before it did.
    """
    x = (logit(taught * agreement) + logit(sure * stability)) / 2
    middle = _SHIFT + _SLOPE * x
    return Estimate(*(_sigmoid(middle + _SPREAD * side) for side in (0.0, -1.0, 1.0)))


def distilled_estimate(run: Path) -> Estimate:
    """The estimated accuracy of a run's distilled recognizer.

    Raises:
        RunError: The stage ``distill`` is not finished, or damaged.
    """
    folder = run / "distill"
    try:
        return Estimate(**require_manifest(folder)["result"]["estimate"])
    except (KeyError, TypeError, ValueError):
        raise RunError(
            f"expected an estimate in the finished stage {folder}, found none; delete that folder "
            "and run the run again"
        ) from None


def limited_by_agreement(estimate: Estimate, agreement: float, other: Estimate) -> Estimate:
    """An estimate that does not contradict the estimate of another reader of the same images.

    Where the other reader is right, this one is right only if both agree. So its accuracy is at
    most the agreement plus the share that the other reads wrong: agreement + 1 - other.low.
    """
    most = min(1.0, agreement + 1 - other.low)
    return Estimate(
        min(estimate.accuracy, most),
        min(estimate.low, most),
        min(estimate.high, most),
        estimate.known_accuracy,
    )


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
        real: The kept reader's readings of all real images.
        known: Its readings of drawn images; none if no simulator was fitted.
        truths: Their texts.
        estimates: Of every reader the run has, by stage.
        kept: The stage whose reader reads.
        alphabet: At least two characters, all of them expected equally often.
    """
    shares = character_shares(real, alphabet)
    confusions = known_confusions(known, truths)
    characters = sum(len(reading.text) for reading in real)
    # Characters are equally frequent in the texts of the simulator, and not in those of others.
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
    """How often each true character was read as which, in texts of the same length."""
    return Counter(
        pair
        for truth, text in zip(truths, texts, strict=True)
        if len(truth) == len(text)
        for pair in zip(truth, text, strict=True)
    )


def known_confusions(known: "Sequence[Reading]", truths: Sequence[str]) -> list[dict[str, Any]]:
    """Which characters are misread as which on known images, the commonest first.

    A share, 0 to 1, is of all readings of the true character. Readings of another length than the
    truth are left out.
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
    return [
        f"the reader of {stage} is estimated to read {estimate.accuracy:.1%} right, that of {kept} "
        f"{estimates[kept].accuracy:.1%}: what came after {kept} made it no better and is not used"
        for stage, estimate in estimates.items()
        if list(estimates).index(stage) > list(estimates).index(kept)
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
            f"it is easily taken for {' or '.join(map(repr, alike))}"
            if alike
            else "its shape may differ from what the simulator draws, see calibrate/glyphs.png"
        )
        sentences.append(f"{figures}{way} than chance allows; {reason}")
    return sentences


def _divergence(share: float, expected: float) -> float:
    """KL divergence D in nats; n draws stray so far with p <= exp(-n D) (Hoeffding 1963, (2.1))."""
    return sum(
        part * math.log(part / whole)
        for part, whole in ((share, expected), (1 - share, 1 - expected))
        if part > 0
    )


def logit(share: float) -> float:
    """The log odds of a share; shares near 0 or 1 count as 0.02 and 0.98."""
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
