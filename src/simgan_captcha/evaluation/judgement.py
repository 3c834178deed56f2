"""Results of a comparison with true texts, which are stored in the folder of the run."""

from pydantic import BaseModel, ConfigDict

from simgan_captcha.shown import few_of

MAX_CONFUSIONS = 50
"""Largest number of pairs in `Judgement.confusions`."""

MAX_WRONG = 100
"""Largest number of readings in `Judgement.wrong`."""

CALIBRATION_BINS = 10
"""Number of confidence bins of equal width."""


class _Figures(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class CharacterScore(_Figures):
    """Number of correct readings of one true character."""

    right: int
    total: int
    accuracy: float | None
    """right / total; None if no true text contains the character."""


class Confusion(_Figures):
    """A true character that was read as another character."""

    truth: str
    read: str
    count: int


class WrongReading(_Figures):
    """An incorrect reading of an image."""

    name: str
    truth: str
    read: str
    confidence: float | None


class CalibrationBin(_Figures):
    """Images with a confidence in [low, high); the last bin includes 1."""

    low: float
    high: float
    images: int
    confidence: float
    """Mean confidence of the images in the bin, in [0, 1]."""
    accuracy: float
    """Share of correctly read images in the bin, in [0, 1]."""


class OwnEstimate(_Figures):
    """Comparison of the estimate of the run without labels with the true accuracy."""

    accuracy: float
    """Estimate of captcha_accuracy."""
    low: float
    high: float
    points_below: float
    """True accuracy minus estimate in percentage points; negative if the estimate is too high."""


class Judgement(_Figures):
    """Result of `judge`; `judge/judgement.json` contains its ``model_dump(mode="json")``.

    Accuracies, intervals and confidences are shares in [0, 1], not percent.
    """

    images: int
    """Number of readings with a true text. All accuracies refer to these readings."""
    captcha_accuracy: float
    """Share of images with a correct reading of the whole text."""
    captcha_interval: tuple[float, float]
    """95 % Wilson interval of captcha_accuracy."""
    character_accuracy: float
    """Share of true characters that are read correctly at their position."""
    character_interval: tuple[float, float]
    """95 % Wilson interval of character_accuracy, computed as if characters were independent."""
    per_position: list[float]
    """Character accuracy at each position, from the left."""
    per_character: dict[str, CharacterScore]
    """Scores by true character, in the order of the alphabet."""
    confusions: list[Confusion]
    """Confusions, the most frequent first, at most `MAX_CONFUSIONS`."""
    confusion_matrix: dict[str, dict[str, int]]
    """Counts by true character and then by read character, including correct readings. Zeros are
    omitted."""
    wrong_length: int
    """Number of readings with another length than the true text. All their characters count as
    wrong."""
    unlabelled: int
    """Number of readings without a true text. They are excluded from all other figures."""
    unlabelled_examples: list[str] = []
    """Names of the first three of these readings."""
    unread: int
    """Number of true texts without a reading. They are excluded from all other figures."""
    unread_examples: list[str] = []
    """Names of the first three of these texts."""
    ambiguous: int = 0
    """Number of texts in `unread` with a name that fits several readings, or the same reading as
    another label."""
    taught: int = 0
    """Number of true texts that the run was taught with. They are excluded from all other figures
    and counts."""
    ignoring_case: bool = False
    """Whether upper and lower case count as the same."""
    mean_confidence: float | None
    """Mean confidence, for comparison with captcha_accuracy; None without confidences."""
    expected_calibration_error: float | None
    """Mean of |confidence - accuracy| over the bins, weighted by their numbers of images.

    It is 0 for perfectly calibrated confidences, and None without confidences.

    Source: Guo et al., On Calibration of Modern Neural Networks, arXiv:1706.04599, equation 3.
    """
    calibration: list[CalibrationBin]
    """Bins with images, in ascending order; empty without confidences."""
    wrong: list[WrongReading]
    """At most `MAX_WRONG` incorrect readings, the most confident first. Without confidences, they
    have the order of the readings."""
    own_estimate: OwnEstimate | None
    """Comparison with the estimate of the run; None without an estimate."""


def judgement_in_words(judgement: Judgement) -> list[str]:
    """Describe a judgement in lines of text: accuracies, confusions, and unmatched labels."""
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
