"""Teaching a finished run with labels, at tiny size."""

import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
from PIL import Image

from simgan_captcha.api.learning import Run
from simgan_captcha.atomic import file_hash
from simgan_captcha.cli import teach as teach_command
from simgan_captcha.errors import RunError, SchemeError, UsageError
from simgan_captcha.generalist.specialization import specialize
from simgan_captcha.inference.exported import METADATA
from simgan_captcha.inference.reader import Reader
from simgan_captcha.inference.readings import load_readings
from simgan_captcha.pipeline.estimate import Estimate
from simgan_captcha.pipeline.lesson import LABELS, LESSON, TEACH, Lesson, load_lesson
from simgan_captcha.pipeline.progress import Event
from simgan_captcha.pipeline.run import load_run_reader
from simgan_captcha.pipeline.run_folder import READER, READINGS
from simgan_captcha.pipeline.stages import distillation, specialization
from simgan_captcha.report.report import write_report
from simgan_captcha.teaching import teach as teaching
from simgan_captcha.teaching.terminal import ASKED
from simgan_captcha.web.corrections import Corrections
from tests.commands import command
from tests.small_run import PRETRAINED, draw_captchas, pipeline, write_challenges

Captchas = list[tuple[bytes, str]]


@pytest.fixture(scope="module")
def captchas() -> Captchas:
    return draw_captchas(60)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, captchas: Captchas) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    write_challenges(folder / "batches", captchas)
    pipeline(folder / "run", folder / "batches", *PRETRAINED)
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def labels(run: Path, count: int) -> dict[str, str]:
    """Texts for the first images; whether they are true does not matter here."""
    return {reading.name: "ab" for reading in load_readings(run / READINGS)[:count]}


def believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the taught reader count as better, however little so small a one has learned."""
    monkeypatch.setattr(teaching, "_is_better", lambda *figures: True)


def test_what_needed_no_labels_stays_as_it_is(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    believed(monkeypatch)
    before = {path: file_hash(path) for path in run.rglob("*") if path.is_file()}
    estimate = Run(run).estimate
    lesson = Run(run).teach(labels(run, 3), progress=lambda event: None)
    assert lesson.labels == 3
    assert lesson.cross_validated is None
    assert lesson.before == estimate == Run(run).estimate
    assert before == {path: file_hash(path) for path in before}
    added = {path for path in run.rglob("*") if path.is_file()} - set(before)
    assert {path.parent for path in added} == {run / TEACH}
    assert (run / READINGS).exists()


def test_the_taught_reader_is_used_and_says_so(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, captchas: Captchas
) -> None:
    believed(monkeypatch)
    finished = Run(run)
    untaught = finished.reader  # loaded before
    lesson = finished.teach(labels(run, 3), progress=lambda event: None)
    assert finished.reader is not untaught
    assert finished.reader.taught == 3
    taught, _, _ = load_run_reader(run)
    first, _, _ = load_run_reader(run, taught=False)
    assert any(
        not a.equal(b)
        for a, b in zip(taught.state_dict().values(), first.state_dict().values(), strict=True)
    )
    file = tmp_path / "reader.onnx"
    exported = command("export", run, file)
    assert "reader.onnx, taught with 3 labels: " in exported.out
    metadata = {one.key: one.value for one in onnx.load(file).metadata_props}
    assert json.loads(metadata[METADATA])["taught_labels"] == 3
    assert Reader(file).taught == 3
    image = tmp_path / "image.jpg"
    image.write_bytes(captchas[0][0])
    for reader in (run, file):
        assert command("read", reader, image).err == "the reader was taught with 3 labels\n"
    page = write_report(run).read_text()
    assert "Taught with labels" in page
    assert lesson.in_words() == "taught with 3 labels"
    shutil.rmtree(run / TEACH)
    assert Run(run).reader.taught == 0


def test_labels_of_earlier_calls_are_used_as_well(run: Path) -> None:
    first, second, third = labels(run, 3)
    Run(run).teach({first: "ab", second: "ab"}, progress=lambda event: None)
    lesson = Run(run).teach({second: "bc", third: "AB"}, progress=lambda event: None)
    assert lesson.labels == 3
    kept = json.loads((run / LABELS).read_text())["texts"]
    assert kept == {first: "ab", second: "bc", third: "ab"}


def test_a_reader_that_is_no_better_is_not_used(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teaching, "_is_better", lambda *figures: False)
    texts = run.parent / "labels.csv"
    texts.write_text("name,label\n" + "".join(f"{n},{t}\n" for n, t in labels(run, 2).items()))
    done = command("teach", run, "--labels", texts, "--quiet")
    assert done.code == 0, done.err
    assert "the labels made it no better; the reader without labels stays in use" in done.out
    assert Run(run).reader.taught == 0


@pytest.mark.parametrize(
    ("right_before", "validated", "after", "better"),
    [
        (5, 8, 0.1, True),  # cross-validation counts before the estimate
        (8, 5, 0.99, False),
        (5, 5, 0.8, True),
        (5, 5, 0.6, False),
        (5, None, 0.6, False),
        (5, None, None, True),
    ],
)
def test_labels_choose_where_there_are_enough_and_else_the_estimate(
    right_before: int, validated: int | None, after: float | None, better: bool
) -> None:
    before = Estimate(0.7, 0.6, 0.8)
    estimated = None if after is None else Estimate(after, 0.0, 1.0)
    assert teaching._is_better(right_before, validated, before, estimated) is better


def test_cross_validation_never_judges_a_label_that_was_taught(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teaching, "FEWEST_VALIDATED", 4)
    given, taught, judged = labels(run, 4), list[set[str]](), list[set[str]]()
    learn, read = teaching._learn, teaching._read

    def learning(data, known, reporter):  # type: ignore[no-untyped-def]
        taught.append(set(known))
        return learn(data, known, reporter)

    def reading(data, learned, names):  # type: ignore[no-untyped-def]
        judged.append(set(names))
        return read(data, learned, names)

    monkeypatch.setattr(teaching, "_learn", learning)
    monkeypatch.setattr(teaching, "_read", reading)
    stages = list[str]()

    def heard(event: Event) -> None:
        if event.kind == "stage":
            stages.append(event.stage)

    lesson = Run(run).teach(given, progress=heard)
    assert stages == ["fold 1", "fold 2", "teach"]
    assert taught[2] == set(given)
    assert [a & b for a, b in zip(taught, judged, strict=False)] == [set(), set()]
    assert set.union(*judged) == set(given)
    assert lesson.cross_validated is not None
    assert 0 <= lesson.cross_validated <= 4


def test_known_texts_reach_the_pseudo_labels_of_each_round(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = labels(run, 5)
    train = distillation._Rounds.train
    rounds = list[Any]()

    def training(self, lesson, number, **first):  # type: ignore[no-untyped-def]
        rounds.append(lesson.images)
        return train(self, lesson, number, **first)

    monkeypatch.setattr(distillation._Rounds, "train", training)
    Run(run).teach(given, progress=lambda event: None)
    assert len(rounds) >= 2
    for images in rounds:
        assert images.known.sum() == 5
        assert {tuple(ids) for ids in images.ids[images.known].tolist()} == {(0, 1)}


def test_known_texts_take_the_place_of_the_generalist_s(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = labels(run, 5)
    learned = dict[str, Any]()
    specialized = specialize.specialize

    def specializing(*arguments, given, **options):  # type: ignore[no-untyped-def]
        learned["known"] = given.known
        return specialized(*arguments, given=given, **options)

    monkeypatch.setattr(specialization, "specialize", specializing)
    Run(run).teach(given, progress=lambda event: None)
    assert sorted(learned["known"].values()) == ["ab"] * 5


def test_known_texts_stay_when_the_generalist_learns_from_the_recognizer(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned = list[Any]()
    specialized = specialize.specialize

    def specializing(*arguments, given, **options):  # type: ignore[no-untyped-def]
        learned.append(given.known)
        return specialized(*arguments, given=given, **options)

    monkeypatch.setattr(distillation, "specialize", specializing)
    Run(run).teach(labels(run, 5), progress=lambda event: None)
    assert learned
    for known in learned:
        assert sorted(known.values()) == ["ab"] * 5


def test_labels_that_do_not_fit_are_refused_before_anything_is_learned(run: Path) -> None:
    name = next(iter(labels(run, 1)))
    with pytest.raises(SchemeError, match="lacks 'z'"):
        Run(run).teach({name: "zz"})
    with pytest.raises(UsageError, match="images: "):
        Run(run).teach({"other.png": "ab"})
    with pytest.raises(UsageError, match="at least one label"):
        teaching.teach(run, {})
    with pytest.raises(UsageError, match="of other images, as 'other'"):
        teaching.teach(run, {"other": "ab"})
    assert not (run / TEACH).exists()
    command("teach", run).error(2, "--labels FILE.csv", "--ask 20")
    command("teach", run, "--reviewed").error(2, "found none", "serve")


def test_questions_are_answered_in_the_terminal(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Enter accepts, a wrong text is asked for again, ? skips and . ends."""
    believed(monkeypatch)
    done = command("teach", run, "--ask", "9", "--quiet", input="\nzz\nabc\nBC\n?\n.\n")
    assert done.code == 0, done.err
    assert "9 images to label. Enter accepts the text shown" in done.out
    assert "lacks 'z'" in done.out
    assert "expected a text of 2 characters, got 'abc'" in done.out
    kept = json.loads((run / LABELS).read_text())["texts"]
    assert len(kept) == 2
    assert list(kept.values())[1] == "bc"  # of the alphabet's case
    with Image.open(run / ASKED) as asked:
        assert asked.size == (48, 24)
    assert "labels      2; without them the run read" in done.out
    assert "use the reader taught with 2 labels from now on" in done.out
    # What was answered is not asked again, and counts the next time.
    again = command("teach", run, "--ask", "1", "--quiet", input="ab\n")
    assert again.code == 0, again.err
    assert Run(run).lesson is not None
    assert "taught with 3 labels" in again.out


def test_images_corrected_on_the_page_are_not_asked_about(run: Path) -> None:
    for name in list(labels(run, 60))[1:]:
        Corrections(run).put(name, "ab", Run(run).scheme)
    done = command("teach", run, "--ask", "3", input=".\n")
    assert done.code == 0, done.err
    assert "1 image to label" in done.out


def test_the_gain_of_a_run_that_learned_from_the_simulator_is_unknown(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teach_command, "BATCH", 2)
    monkeypatch.setattr(teaching, "_learns_from_generalist", lambda run: False)
    done = command("teach", run, "--ask", "3", "--quiet", input="\n\n.\n")
    assert done.code == 0, done.err
    assert "gain        unknown before the lesson" in done.out


def test_no_answer_teaches_nothing(run: Path) -> None:
    done = command("teach", run, "--ask", "3", input="")
    assert done.code == 0
    assert "no labels given; nothing was taught" in done.out
    assert load_lesson(run) is None


def test_corrections_of_the_page_are_taught(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    believed(monkeypatch)
    name = next(iter(labels(run, 1)))
    Corrections(run).put(name, "c1", Run(run).scheme)
    done = command("teach", run, "--reviewed", "--quiet")
    assert done.code == 0, done.err
    assert "taught with 1 label from now on" in done.out
    lesson = json.loads(command("teach", run, "--reviewed", "--json").out)
    assert (lesson["labels"], lesson["better"]) == (1, True)
    assert all(0 <= lesson[when]["accuracy"] <= 1 for when in ("before", "after"))
    command("teach", run, "--ask", "1", "--json").error(2, "expected --json or --ask, got both")


def test_taught_images_are_left_out_of_judging(
    run: Path, captchas: Captchas, monkeypatch: pytest.MonkeyPatch
) -> None:
    believed(monkeypatch)
    given = labels(run, 3)
    Run(run).teach(given, progress=lambda event: None)
    names = [reading.name for reading in load_readings(run / READINGS)]
    csv = run.parent / "labels.csv"
    csv.write_text("name,label\n" + "".join(f"{name},ab\n" for name in names))
    for arguments in ((), ("--taught",)):
        done = command("judge", run, "--labels", csv, *arguments)
        assert done.code == 0, done.err
        assert "57 images: " in done.out
        assert "taught images left out: 3" in done.out
    assert done.out.startswith("reader taught with 3 labels\n")


def test_without_a_lesson_there_is_nothing_to_judge(run: Path) -> None:
    csv = run.parent / "labels.csv"
    csv.write_text("name,label\na,ab\n")
    command("judge", run, "--labels", csv, "--taught").error(1, "expected a taught run")


def test_a_lesson_that_is_damaged_or_of_another_run_is_not_used(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    believed(monkeypatch)
    Run(run).teach(labels(run, 3), progress=lambda event: None)
    written = (run / LESSON).read_text()
    reader = (run / TEACH / READER).read_bytes()
    for damage, why in (
        ("{", "lesson.json is damaged"),
        (written.replace('"labels": 3', '"labels": "3"'), "lesson.json is damaged"),
        (
            json.dumps(json.loads(written) | {"diagnosis_sha256": "0"}),
            "the run was changed after it was taught",
        ),
    ):
        (run / LESSON).write_text(damage)
        with pytest.raises(RunError, match=why):
            load_lesson(run)
        assert "taught" in write_report(run).read_text()
    (run / LESSON).write_text(written)
    (run / TEACH / READER).write_bytes(reader[:-1])
    with pytest.raises(RunError, match=f"{READER} is damaged"):
        load_run_reader(run)
    load_run_reader(run, taught=False)
    (run / TEACH / READER).unlink()
    with pytest.raises(RunError, match=f"{READER} is damaged"):
        load_lesson(run)
    (run / TEACH / READER).write_bytes(reader)
    assert isinstance(load_lesson(run), Lesson)
    # Teaching again replaces a damaged lesson.
    (run / LESSON).write_text("{")
    done = command("teach", run, "--ask", "1", "--quiet", input="ab\n")
    assert done.code == 0, done.err
    assert Run(run).reader.taught == 4


def test_a_run_that_learned_from_the_simulator_is_taught_from_its_readings(
    tmp_path: Path, captchas: Captchas, monkeypatch: pytest.MonkeyPatch
) -> None:
    believed(monkeypatch)
    write_challenges(tmp_path / "batches", captchas)
    run = tmp_path / "run"
    pipeline(run, tmp_path / "batches", "recognizer.images=raw", "distillation.fewest_steps=6")
    lesson = Run(run).teach(labels(run, 3), progress=lambda event: None)
    assert lesson.after is None
    assert Run(run).reader.taught == 3
