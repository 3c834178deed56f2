"""Learn from a few labels and many unlabelled images, on top of a finished run."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from simgan_captcha.atomic import write_json
from simgan_captcha.errors import UsageError
from simgan_captcha.inference.readings import load_readings, save_readings
from simgan_captcha.pipeline.cost import recognizer_architecture
from simgan_captcha.pipeline.estimate import Estimate
from simgan_captcha.pipeline.lesson import (
    LESSON,
    TAUGHT_NAMES,
    TAUGHT_READINGS,
    TEACH,
    Lesson,
    save_lesson,
)
from simgan_captcha.pipeline.progress import OnEvent, Reporter, ignore
from simgan_captcha.pipeline.run import opened
from simgan_captcha.pipeline.run_data import RunData
from simgan_captcha.pipeline.run_folder import (
    READER,
    READINGS,
    TeacherTexts,
    read_diagnosis,
    run_estimate,
)
from simgan_captcha.pipeline.stages.distillation import Distilled, learn_texts
from simgan_captcha.pipeline.stages.specialization import specialized_texts
from simgan_captcha.recognizer.decode import decode, read_probabilities, save_recognizer

FEWEST_VALIDATED = 10
"""Smallest number of labels for cross-validation."""

_WORK = "work"
_FOLDS = 2


def teach(run: Path, labels: Mapping[str, str], *, progress: OnEvent = ignore) -> Lesson:
    """Teach a finished run with the texts of some of its images.

    The generalist is specialized again, with these texts among its pseudo-labels. A small
    recognizer learns from its readings, and the two teach each other. If the run learned from the
    simulator, the readings of the run replace the first ones of the generalist. Known texts are
    25 % of a batch for ten labels, and up to 50 % for many.

    The taught reader is used from now on unless cross-validation over the labels or, with few
    labels, the estimate shows that it is worse.

    Args:
        run: Folder of a finished run.
        labels: True texts by the names of images of the run, at least one.
        progress: Called with each event.

    Returns:
        A summary of the lesson; `pipeline.lesson.load_lesson` loads it later.

    Raises:
        UsageError: There are no labels, or a name belongs to no image of the run.
        SchemeError: A text does not fit the scheme.
        RunError: The run is not finished, or another process uses it.
    """
    with opened(run, progress) as data:
        before = {reading.name: reading for reading in load_readings(run / READINGS)}
        scheme, reporter = data.config.scheme, Reporter(progress)
        _require_labels(labels, before)
        labels = {name: scheme.fold(text) for name, text in labels.items()}
        for text in labels.values():
            scheme.encode(text)
        names = [name for name in before if name in labels]
        right = [scheme.fold(before[name].text) == labels[name] for name in names]
        validated = None
        if len(names) >= FEWEST_VALIDATED:
            validated = _cross_validate(data, labels, names, reporter)
        reporter.stage(TEACH)
        learned = _learn(data, labels, reporter)
        estimated = run_estimate(run)
        after = learned.estimate if _learns_from_generalist(run) else None
        lesson = Lesson(
            labels=len(names),
            right_before=sum(right),
            cross_validated=validated,
            before=estimated,
            after=after,
            better=_is_better(sum(right), validated, estimated, after),
        )
        _write(data, names, learned, lesson)
        return lesson


def estimate_gain(
    run: Path, labels: Mapping[str, str], *, progress: OnEvent = ignore
) -> Estimate | None:
    """The estimated accuracy of the reader that a lesson with these labels gives now.

    The reader is trained as in `teach`, without cross-validation, and not kept.

    Args:
        run: Folder of a finished run.
        labels: Labels of `teaching.labels.kept_labels`, at least one.
        progress: Called with each event.

    Returns:
        None if the run learned from the simulator: there is no estimate then, and no training.

    Raises:
        RunError: The run is not finished, or another process uses it.
    """
    if not _learns_from_generalist(run):
        return None
    with opened(run, progress) as data:
        reporter = Reporter(progress)
        reporter.stage("gain")
        return _learn(data, labels, reporter).estimate


def _learns_from_generalist(run: Path) -> bool:
    """Whether the run keeps the recognizer that learned from the generalist."""
    return bool(read_diagnosis(run)["kept"] == "distill")


def _require_labels(labels: Mapping[str, str], read: Mapping[str, object]) -> None:
    if not labels:
        raise UsageError("expected at least one label, got none; label some images of the run")
    unknown = [name for name in labels if name not in read]
    if unknown:
        raise UsageError(
            f"expected labels of the run's images, got {len(unknown)} of other images, as "
            f"{unknown[0][:80]!r}; leave them out"
        )


def _is_better(
    right_before: int, validated: int | None, before: Estimate, after: Estimate | None
) -> bool:
    if validated is not None and validated != right_before:
        return validated > right_before
    return after is None or after.accuracy >= before.accuracy


def _learn(data: RunData, labels: Mapping[str, str], reporter: Reporter) -> Distilled:
    """Learn from labels and from the texts of the generalist or of the run."""
    work = data.run / TEACH / _WORK
    shutil.rmtree(work, ignore_errors=True)  # it may contain work with other labels
    work.mkdir(parents=True)
    try:
        if _learns_from_generalist(data.run):
            teacher = specialized_texts(data, labels, reporter.step)
        else:
            readings = load_readings(data.run / READINGS)
            teacher = TeacherTexts(
                [one.name for one in readings],
                [one.text for one in readings],
                [one.confidence for one in readings],
            )
        return learn_texts(data, work, teacher, labels, reporter.step)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _cross_validate(
    data: RunData, labels: Mapping[str, str], names: Sequence[str], reporter: Reporter
) -> int:
    """Number of labelled images that are read correctly by readers taught with the other labels."""
    scheme, right = data.config.scheme, 0
    order = np.random.default_rng(data.seed).permutation(len(names))
    for fold in range(_FOLDS):
        held_out = {names[number] for number in order[fold::_FOLDS]}
        reporter.stage(f"fold {fold + 1}")
        taught = {name: text for name, text in labels.items() if name not in held_out}
        learned = _learn(data, taught, reporter)
        for name, text in _read(data, learned, sorted(held_out)).items():
            right += scheme.fold(text) == labels[name]
    return right


def _read(data: RunData, learned: Distilled, names: Sequence[str]) -> dict[str, str]:
    images = data.images_named(names)
    probabilities = read_probabilities(learned.kept.reader, data.background(), images)
    return {one.name: one.text for one in decode(data.config.scheme, list(names), probabilities)}


def _write(data: RunData, names: Sequence[str], learned: Distilled, lesson: Lesson) -> None:
    """Write the taught reader, its readings and finally the lesson."""
    run, scheme = data.run, data.config.scheme
    reader = learned.kept.reader
    probabilities = read_probabilities(reader, data.background(), data.images)
    (run / LESSON).unlink(missing_ok=True)
    write_json(run / TAUGHT_NAMES, list(names))
    save_recognizer(run / TEACH / READER, reader, recognizer_architecture(data.config))
    save_readings(run / TAUGHT_READINGS, list(decode(scheme, data.captchas[0], probabilities)))
    save_lesson(run, lesson)
