"""Readings against true texts: exact match, per character, intervals, confusions, calibration.

This module and `simgan_captcha.puzzle` are the only places where the true text of a real image
exists. Nothing that learns may import either.
"""

import csv
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from simgan_captcha.errors import SchemeError, ShapeError, UsageError
from simgan_captcha.evaluation.intervals import wilson_interval
from simgan_captcha.pipeline.estimate import Estimate
from simgan_captcha.shown import from_spreadsheet_cell

MAX_LABELS_BYTES = 64_000_000
"""Larger label files are refused before they are read."""

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
    unread: int
    """True texts without a reading; left out of every figure."""
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


def judge(
    names: Sequence[str],
    texts: Sequence[str],
    truth: Callable[[str], str] | Mapping[str, str],
    alphabet: str,
    *,
    fold: Callable[[str], str] = str,
    confidences: Sequence[float] | None = None,
    estimate: Estimate | None = None,
) -> Judgement:
    """Compare what was read with what is true, character by character at the same position.

    Args:
        names: N distinct image names.
        texts: What was read from each, N.
        truth: The true text by name: a mapping that may lack some and hold others, or a function
            that knows every name.
        alphabet: Every character a true text may hold.
        fold: What makes a true text and what was read comparable, where some characters count as
            one, see `scheme.Scheme.alike`.
        confidences: How sure the reader was of each whole text, N, in [0, 1].
        estimate: What the run that read them says of its own accuracy.

    Raises:
        ShapeError: The sequences differ in length.
        SchemeError: A true text is empty or holds a character outside the alphabet.
        UsageError: A name repeats, a confidence is out of range, or no reading has a true text.

    Example:
        >>> found = judge(["a", "b"], ["cat", "dqg"], {"a": "cat", "b": "dog"}, "abcdefgoqt")
        >>> found.captcha_accuracy, found.per_position
        (0.5, [1.0, 0.5, 1.0])
    """
    _check_readings(names, texts, confidences)
    labels = truth if isinstance(truth, Mapping) else {name: truth(name) for name in names}
    judged = [index for index, name in enumerate(names) if name in labels]
    if not judged:
        raise UsageError(
            f"expected labels for some of the {len(names)} readings, got {len(labels)} labels and "
            "none by the name of a reading; check that labels and run are of the same images"
        )
    true = [fold(labels[names[index]]) for index in judged]
    read = [fold(texts[index]) for index in judged]
    _check_truth(true, alphabet)

    hits = [_hits(truth_, text) for truth_, text in zip(true, read, strict=True)]
    right = [truth_ == text for truth_, text in zip(true, read, strict=True)]
    pairs = Counter(
        pair
        for truth_, text in zip(true, read, strict=True)
        if len(truth_) == len(text)
        for pair in zip(truth_, text, strict=True)
    )
    characters = [hit for row in hits for hit in row]
    sure = None if confidences is None else [float(confidences[index]) for index in judged]
    bins = [] if sure is None else _calibration(sure, right)
    accuracy = sum(right) / len(right)
    return Judgement(
        images=len(judged),
        captcha_accuracy=accuracy,
        captcha_interval=wilson_interval(sum(right), len(right)),
        character_accuracy=sum(characters) / len(characters),
        character_interval=wilson_interval(sum(characters), len(characters)),
        per_position=_per_position(hits),
        per_character=_per_character(true, hits, alphabet),
        confusions=_confusions(pairs),
        confusion_matrix=_confusion_matrix(pairs),
        wrong_length=sum(len(a) != len(b) for a, b in zip(true, read, strict=True)),
        unlabelled=len(names) - len(judged),
        unread=len(labels) - len(judged),
        mean_confidence=None if sure is None else sum(sure) / len(sure),
        expected_calibration_error=(
            None
            if sure is None
            else sum(b.images * abs(b.confidence - b.accuracy) for b in bins) / len(sure)
        ),
        calibration=bins,
        wrong=_wrong([names[index] for index in judged], true, read, sure),
        own_estimate=(
            None
            if estimate is None
            else OwnEstimate(
                accuracy=estimate.accuracy,
                low=estimate.low,
                high=estimate.high,
                points_below=100 * (accuracy - estimate.accuracy),
            )
        ),
    )


def read_labels_csv(path: Path) -> dict[str, str]:
    """True texts by image name from a UTF-8 CSV file with the header ``name,label``.

    Args:
        path: At most `MAX_LABELS_BYTES` long. A name may repeat with the same label.

    Raises:
        UsageError: Missing, too large, not UTF-8, another header, an incomplete row, a name with
            two different labels, or no label at all.
    """
    rows = csv.reader(io.StringIO(_labels_text(path), newline=""), strict=True)
    labels: dict[str, str] = {}
    try:
        header = next(rows, None)
        if header != ["name", "label"]:
            got = "nothing" if header is None else repr(",".join(header)[:80])
            raise UsageError(f"{path}: expected the header name,label, got {got}; add it")
        for row in rows:
            if not row:
                continue
            if len(row) != 2 or not all(row):
                raise UsageError(
                    f"{path}, line {rows.line_num}: expected a name and a label, got "
                    f"{','.join(row)[:80]!r}; correct the line"
                )
            name, label = map(from_spreadsheet_cell, row)
            if labels.setdefault(name, label) != label:
                raise UsageError(
                    f"{path}, line {rows.line_num}: {name[:80]!r} already has the label "
                    f"{labels[name][:80]!r}, got {label[:80]!r}; keep one of them"
                )
    except csv.Error as error:
        raise UsageError(
            f"{path}, line {rows.line_num}: expected comma-separated values, got a line that is "
            f"not ({error}); correct the line"
        ) from None
    if not labels:
        raise UsageError(f"{path}: expected at least one label after the header, got none")
    return labels


def puzzle_truth(user: str) -> Callable[[str], str]:
    """The puzzle's own answers for one user, by image name."""
    # Late, so that judging by a label file never loads the answer rule.
    from simgan_captcha.puzzle.answers import answer

    return partial(answer, user)


def _labels_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_LABELS_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"expected a label file at {path}, got {error.strerror}; name a CSV file"
        ) from None
    if len(data) > MAX_LABELS_BYTES:
        raise UsageError(f"{path}: expected at most {MAX_LABELS_BYTES} bytes of labels, got more")
    try:
        # utf-8-sig: spreadsheet programs put a byte order mark before the header.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path}: expected UTF-8, got another byte at {error.start}; save the file as UTF-8"
        ) from None


def _check_readings(
    names: Sequence[str], texts: Sequence[str], confidences: Sequence[float] | None
) -> None:
    lengths = {len(names), len(texts), len(names if confidences is None else confidences)}
    if len(lengths) != 1:
        raise ShapeError(
            f"expected one text (and confidence) a name, got {len(names)} names, {len(texts)} "
            f"texts and {'no' if confidences is None else len(confidences)} confidences"
        )
    name, times = Counter(names).most_common(1)[0] if names else ("", 0)
    if times > 1:
        raise UsageError(f"expected one reading a name, got {times} of {name[:80]!r}")
    outside = next((c for c in confidences or () if not 0 <= c <= 1), None)
    if outside is not None:
        raise UsageError(f"expected confidences in [0, 1], got {outside}; normalise them")


def _check_truth(true: Sequence[str], alphabet: str) -> None:
    known = set(alphabet)
    for text in true:
        if not text:
            raise SchemeError("expected true texts of at least one character, got an empty one")
        if not known.issuperset(text):
            missing = "".join(sorted(set(text) - known))
            raise SchemeError(
                f"the alphabet {alphabet!r} lacks {missing!r} of the label {text!r}; correct the "
                "label or the scheme's alphabet"
            )


def _hits(true: str, read: str) -> list[bool]:
    """Right or not at each position of the truth; of another length nothing can be aligned."""
    if len(true) != len(read):
        return [False] * len(true)
    return [a == b for a, b in zip(true, read, strict=True)]


def _per_position(hits: list[list[bool]]) -> list[float]:
    at = [
        [row[position] for row in hits if position < len(row)]
        for position in range(max(map(len, hits)))
    ]
    return [sum(column) / len(column) for column in at]


def _per_character(
    true: Sequence[str], hits: list[list[bool]], alphabet: str
) -> dict[str, CharacterScore]:
    total: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for text, row in zip(true, hits, strict=True):
        total.update(text)
        right.update(character for character, hit in zip(text, row, strict=True) if hit)
    return {
        c: CharacterScore(
            right=right[c], total=total[c], accuracy=right[c] / total[c] if total[c] else None
        )
        for c in alphabet
    }


def _confusions(pairs: Counter[tuple[str, str]]) -> list[Confusion]:
    mistakes = [(count, true, read) for (true, read), count in pairs.items() if true != read]
    mistakes.sort(key=lambda mistake: (-mistake[0], mistake[1:]))
    return [
        Confusion(truth=true, read=read, count=count)
        for count, true, read in mistakes[:MAX_CONFUSIONS]
    ]


def _confusion_matrix(pairs: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    matrix: dict[str, dict[str, int]] = {}
    for (true, read), count in sorted(pairs.items()):
        matrix.setdefault(true, {})[read] = count
    return matrix


def _calibration(sure: list[float], right: list[bool]) -> list[CalibrationBin]:
    held: dict[int, list[int]] = {}
    for index, confidence in enumerate(sure):
        held.setdefault(min(int(confidence * CALIBRATION_BINS), CALIBRATION_BINS - 1), []).append(
            index
        )
    return [
        CalibrationBin(
            low=number / CALIBRATION_BINS,
            high=(number + 1) / CALIBRATION_BINS,
            images=len(held[number]),
            confidence=sum(sure[index] for index in held[number]) / len(held[number]),
            accuracy=sum(right[index] for index in held[number]) / len(held[number]),
        )
        for number in sorted(held)
    ]


def _wrong(
    names: list[str], true: list[str], read: list[str], sure: list[float] | None
) -> list[WrongReading]:
    wrong = [index for index in range(len(names)) if true[index] != read[index]]
    if sure is not None:
        wrong.sort(key=lambda index: -sure[index])
    return [
        WrongReading(
            name=names[index],
            truth=true[index],
            read=read[index],
            confidence=None if sure is None else sure[index],
        )
        for index in wrong[:MAX_WRONG]
    ]
