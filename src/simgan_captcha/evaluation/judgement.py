"""What judging finds, as figures that are kept in a run's folder."""

from pydantic import BaseModel, ConfigDict

from simgan_captcha.evaluation.labels import few_of

MAX_CONFUSIONS = 50
"""Pairs listed in `Judgement.confusions`."""

MAX_WRONG = 100
"""Readings listed in `Judgement.wrong`."""

CALIBRATION_BINS = 10
"""Equal-width bins of confidence."""


class _Figures(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class CharacterScore(_Figures):
    """How often one true character was read right."""

    right: int
    total: int
    accuracy: float | None
    """right / total; None when the character never was the truth."""


class Confusion(_Figures):
    """One character taken for another."""

    truth: str
    read: str
    count: int


class WrongReading(_Figures):
    """One image whose text was not the truth."""

    name: str
    truth: str
    read: str
    confidence: float | None


class CalibrationBin(_Figures):
    """Images whose confidence lies in [low, high) (the last bin includes 1)."""

    low: float
    high: float
    images: int
    confidence: float
    """Mean confidence of the bin's images, in [0, 1]."""
    accuracy: float
    """Share of the bin's images read right, in [0, 1]."""


class OwnEstimate(_Figures):
    """What the run said of itself, having no label, beside the truth."""

    accuracy: float
    """Its estimate of captcha_accuracy."""
    low: float
    high: float
    points_below: float
    """Percentage points from the estimate up to the truth; negative where it was too high."""


class Judgement(_Figures):
    """What `judge` found; ``model_dump(mode="json")`` is what `judge/judgement.json` holds.

    Accuracies, intervals and confidences are shares in [0, 1], not percent.
    """

    images: int
    """Readings that have a true text; every figure below is about these."""
    captcha_accuracy: float
    """Share of images whose whole text is the truth."""
    captcha_interval: tuple[float, float]
    """95 % Wilson interval of captcha_accuracy."""
    character_accuracy: float
    """Share of true characters read right at their position."""
    character_interval: tuple[float, float]
    """95 % Wilson interval of character_accuracy, as if characters were independent."""
    per_position: list[float]
    """Character accuracy at each position, from the left."""
    per_character: dict[str, CharacterScore]
    """By true character, in the order of the alphabet."""
    confusions: list[Confusion]
    """The most frequent first, at most `MAX_CONFUSIONS`."""
    confusion_matrix: dict[str, dict[str, int]]
    """Counts by true, then by read character, right ones included; zeros are left out."""
    wrong_length: int
    """Readings of another length than the truth: wrong in the captcha and in every character."""
    unlabelled: int
    """Readings without a true text; left out of every figure."""
    unlabelled_examples: list[str] = []
    """Names of the first three of them."""
    unread: int
    """True texts without a reading; left out of every figure."""
    unread_examples: list[str] = []
    """Names of the first three of them."""
    ambiguous: int = 0
    """Of `unread`, those whose name would fit several readings, or that of another label."""
    taught: int = 0
    """True texts that the run was taught with; left out of every figure and count."""
    ignoring_case: bool = False
    """Whether upper and lower case count as the same."""
    mean_confidence: float | None
    """Compare with captcha_accuracy; None when no confidences were given."""
    expected_calibration_error: float | None
    """Mean of |confidence - accuracy| over the bins, weighted by their images; 0 is perfect.

    Source: Guo et al., On Calibration of Modern Neural Networks, arXiv:1706.04599, equation 3.
    """
    calibration: list[CalibrationBin]
    """Bins that hold images, ascending; empty when no confidences were given."""
    wrong: list[WrongReading]
    """At most `MAX_WRONG`: the most confident first, or in the order given without confidences."""
    own_estimate: OwnEstimate | None
    """None when no estimate was given."""


def judgement_in_words(judgement: Judgement) -> list[str]:
    """Lines for a person: how much is right, what is confused, and what found no partner."""
    low, high = judgement.captcha_interval
    lines = [
        f"{judgement.images} images: {judgement.captcha_accuracy:.2%} of captchas right "
        f"(95 % interval {low:.2%} to {high:.2%}), {judgement.character_accuracy:.2%} of characters"
        + (", ignoring case" if judgement.ignoring_case else "")
    ]
    if own := judgement.own_estimate:
        lines.append(
            f"estimated {own.accuracy:.1%} ({own.low:.1%} to {own.high:.1%}) without a label, "
            f"{abs(own.points_below):.1f} points {'below' if own.points_below > 0 else 'above'}"
        )
    worst = ", ".join(f"{c.truth} read as {c.read} {c.count}x" for c in judgement.confusions[:5])
    lines.append(f"most confused: {worst or 'nothing'}")
    if judgement.taught:
        lines.append(
            f"taught images left out: {judgement.taught}, as the run has learned from their labels"
        )
    unread = _counted(judgement.unread, judgement.unread_examples)
    if judgement.ambiguous:
        unread += f"; {judgement.ambiguous} of them would fit several"
    lines.append(f"labels without a reading: {unread}")
    unlabelled = _counted(judgement.unlabelled, judgement.unlabelled_examples)
    lines.append(f"readings without a label: {unlabelled}")
    return lines


def _counted(count: int, names: list[str]) -> str:
    if not count:
        return "none"
    return f"{count} ({few_of(names, count)})"
