"""Comparison of readings with true texts: accuracies, intervals, confusions and calibration.

Only this module, `labels`, `simgan_captcha.teaching` and `simgan_captcha.puzzle` use true texts of
real images. Code that learns without labels must not import them.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from simgan_captcha.errors import SchemeError, ShapeError, UsageError
from simgan_captcha.evaluation.casing import in_one_case
from simgan_captcha.evaluation.intervals import wilson_interval
from simgan_captcha.evaluation.judgement import (
    CALIBRATION_BINS,
    MAX_CONFUSIONS,
    MAX_WRONG,
    CalibrationBin,
    CharacterScore,
    Confusion,
    Judgement,
    OwnEstimate,
    WrongReading,
)
from simgan_captcha.evaluation.labels import (
    EXAMPLES,
    examples,
    labels_in_names,
    match_labels,
    read_labels_csv,
    taught_names,
)
from simgan_captcha.inference.readings import Reading
from simgan_captcha.pipeline.estimate import Estimate, read_as
from simgan_captcha.scheme import Scheme


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
    """Compare readings with true texts, character by character at the same position.

    Args:
        names: N distinct image names.
        texts: N texts of the readings.
        truth: True texts by image name. A mapping may lack names and contain others. A function
            must know every name.
        alphabet: All characters that true texts may contain.
        fold: Function that maps true texts and readings to comparable texts, if some characters
            count as one, see `scheme.Scheme.equivalents`.
        confidences: N confidences of the whole texts, in [0, 1].
        estimate: The accuracy that the run estimated for its readings.

    Raises:
        ShapeError: The sequences differ in length.
        SchemeError: A true text is empty or contains a character outside the alphabet.
        UsageError: A name repeats, a confidence is out of range, or no reading has a true text.

    Example:
        >>> found = judge(["a", "b"], ["cat", "dqg"], {"a": "cat", "b": "dog"}, "abcdefgoqt")
        >>> found.captcha_accuracy, found.per_position
        (0.5, [1.0, 0.5, 1.0])
    """
    _check_readings(names, texts, confidences)
    labels = truth if isinstance(truth, Mapping) else {name: truth(name) for name in names}
    compared = _Compared.of(names, texts, labels, fold, confidences)
    _check_truth(compared.true, alphabet)

    hits, right, sure = compared.hits(), compared.right(), compared.sure
    pairs = read_as(compared.true, compared.read)
    characters = [hit for row in hits for hit in row]
    bins = [] if sure is None else _calibration(sure, right)
    accuracy = sum(right) / len(right)
    known = set(names)
    unlabelled = [name for name in names if name not in labels]
    unread = [name for name in labels if name not in known]
    return Judgement(
        images=len(right),
        captcha_accuracy=accuracy,
        captcha_interval=wilson_interval(sum(right), len(right)),
        character_accuracy=sum(characters) / len(characters),
        character_interval=wilson_interval(sum(characters), len(characters)),
        per_position=_per_position(hits),
        per_character=_per_character(compared.true, hits, alphabet),
        confusions=_confusions(pairs),
        confusion_matrix=_confusion_matrix(pairs),
        wrong_length=sum(len(true) != len(read) for true, read in compared.pairs()),
        unlabelled=len(unlabelled),
        unlabelled_examples=unlabelled[:EXAMPLES],
        unread=len(unread),
        unread_examples=unread[:EXAMPLES],
        mean_confidence=None if sure is None else sum(sure) / len(sure),
        expected_calibration_error=None if sure is None else _calibration_error(bins),
        calibration=bins,
        wrong=_wrong(compared),
        own_estimate=None if estimate is None else _compared(estimate, accuracy),
    )


@dataclass(frozen=True)
class _Compared:
    """N readings and their true texts, both as comparable texts."""

    names: list[str]
    true: list[str]
    read: list[str]
    sure: list[float] | None
    """Confidences of the readings."""

    @staticmethod
    def of(
        names: Sequence[str],
        texts: Sequence[str],
        labels: Mapping[str, str],
        fold: Callable[[str], str],
        confidences: Sequence[float] | None,
    ) -> "_Compared":
        """Select the readings that have a label; see `judge` for the arguments."""
        judged = _with_label(names, labels)
        return _Compared(
            [names[index] for index in judged],
            [fold(labels[names[index]]) for index in judged],
            [fold(texts[index]) for index in judged],
            None if confidences is None else [float(confidences[index]) for index in judged],
        )

    def pairs(self) -> list[tuple[str, str]]:
        """Pairs of true text and reading."""
        return list(zip(self.true, self.read, strict=True))

    def hits(self) -> list[list[bool]]:
        """Whether each position of each true text was read correctly."""
        return [_hits(true, read) for true, read in self.pairs()]

    def right(self) -> list[bool]:
        """Whether each reading is the true text."""
        return [true == read for true, read in self.pairs()]


@dataclass(frozen=True)
class Truth:
    """Source of the true texts; exactly one of the fields is given."""

    user: str | None = None
    """User of the puzzle; the answer rule of the puzzle gives the texts."""
    labels: Path | None = None
    """CSV file with labels, see `labels.read_labels_csv`."""
    in_names: str | None = None
    """Pattern of image names that contain the texts, see `labels.labels_in_names`."""

    def __post_init__(self) -> None:
        given = [self.user, self.labels, self.in_names]
        if sum(one is not None for one in given) != 1:
            raise UsageError(
                "expected either --user NAME or --labels FILE.csv to judge by, or "
                "--labels-in-names PATTERN; give one of them"
            )


def judge_run(
    run: Path,
    readings: Sequence[Reading],
    scheme: Scheme,
    truth: Truth,
    *,
    ignore_case: bool = False,
    estimate: Estimate | None = None,
) -> Judgement:
    """Compare the readings of a run with true texts, excluding images that it was taught with.

    Raises:
        RunError: The list of taught images is damaged.
        UsageError: The labels cannot be read, or `judge` raises it.
        SchemeError: See `judge`.
    """
    taught = taught_names(run)
    kept = [reading for reading in readings if reading.name not in taught]
    if readings and not kept:
        raise UsageError(
            f"expected images that {run} was not taught with, all {len(readings)} were; nothing is "
            "left to judge by"
        )
    ambiguous, left_out = 0, len(readings) - len(kept)
    answers: Callable[[str], str] | Mapping[str, str]
    if truth.user is not None:
        answers = puzzle_truth(truth.user)
    else:
        # Labels of taught images are matched first. Otherwise they would count as unread.
        names = [reading.name for reading in readings]
        matched = match_labels(
            read_labels_csv(truth.labels)
            if truth.labels is not None
            else labels_in_names(names, truth.in_names or ""),
            names,
        )
        ambiguous = matched.ambiguous
        left_out = sum(name in matched.labels for name in names if name in taught)
        answers = {name: text for name, text in matched.labels.items() if name not in taught}
    recased = partial(in_one_case, scheme=scheme) if ignore_case else str
    judgement = judge(
        [reading.name for reading in kept],
        [reading.text for reading in kept],
        answers,
        "".join(dict.fromkeys(recased(scheme.alphabet))),
        fold=lambda text: recased(scheme.fold(recased(text))),
        confidences=[reading.confidence for reading in kept],
        estimate=estimate,
    )
    return judgement.model_copy(
        update={"ambiguous": ambiguous, "taught": left_out, "ignoring_case": ignore_case}
    )


def puzzle_truth(user: str) -> Callable[[str], str]:
    """The answers of the puzzle for one user, by image name."""
    # The import is late, so that a comparison with a label file never loads the answer rule.
    from simgan_captcha.puzzle.answers import answer

    return partial(answer, user)


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


def _with_label(names: Sequence[str], labels: Mapping[str, str]) -> list[int]:
    """Indices of the readings that have a label, at least one."""
    judged = [index for index, name in enumerate(names) if name in labels]
    if not judged:
        raise UsageError(
            f"expected labels for some of the {len(names)} readings, got {len(labels)} labels and "
            f"none by the name of a reading (labels: {examples(list(labels)) or 'none'}; readings: "
            f"{examples(names) or 'none'}); check that labels and run are of the same images"
        )
    return judged


def _check_truth(true: Sequence[str], alphabet: str) -> None:
    known = set(alphabet)
    for text in true:
        if not text:
            raise SchemeError("expected true texts of at least one character, got an empty one")
        if not known.issuperset(text):
            missing = "".join(sorted(set(text) - known))
            other_case = all({c.lower(), c.upper()} & known for c in missing)
            raise SchemeError(
                f"the alphabet {alphabet!r} lacks {missing!r} of the label {text!r}; correct the "
                "label or the scheme's alphabet"
                + (", or judge with --ignore-case" if other_case else "")
            )


def _hits(true: str, read: str) -> list[bool]:
    """Whether each position of the true text is correct; none is if the lengths differ."""
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


def _calibration_error(bins: Sequence[CalibrationBin]) -> float:
    images = sum(b.images for b in bins)
    return sum(b.images * abs(b.confidence - b.accuracy) for b in bins) / images


def _compared(estimate: Estimate, accuracy: float) -> OwnEstimate:
    return OwnEstimate(
        accuracy=estimate.accuracy,
        low=estimate.low,
        high=estimate.high,
        points_below=100 * (accuracy - estimate.accuracy),
    )


def _wrong(compared: _Compared) -> list[WrongReading]:
    right, sure = compared.right(), compared.sure
    wrong = [index for index in range(len(right)) if not right[index]]
    if sure is not None:
        wrong.sort(key=lambda index: -sure[index])
    return [
        WrongReading(
            name=compared.names[index],
            truth=compared.true[index],
            read=compared.read[index],
            confidence=None if sure is None else sure[index],
        )
        for index in wrong[:MAX_WRONG]
    ]
