"""Runs that begin with the pretrained generalist, at tiny size."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from lightning_fabric import Fabric

from simgan_captcha.api.learning import Run
from simgan_captcha.errors import RunError
from simgan_captcha.generalist.specialization.specialize import specialize
from simgan_captcha.inference.reader import Reader
from simgan_captcha.inference.readings import load_readings
from simgan_captcha.pipeline.estimate import (
    Estimate,
    distilled_estimate,
    limited_by_agreement,
    limited_by_readings,
)
from simgan_captcha.pipeline.manifest import MANIFEST
from simgan_captcha.pipeline.progress import StageProgress
from simgan_captcha.pipeline.routes import recorded_stages
from simgan_captcha.pipeline.run_data import RunData
from simgan_captcha.pipeline.run_folder import (
    PSEUDO_LABELS,
    READINGS,
    TeacherTexts,
    read_diagnosis,
    read_run,
)
from simgan_captcha.pipeline.stages import distillation, final_readings
from simgan_captcha.pipeline.stages.distillation import _Lesson as Lesson
from simgan_captcha.pipeline.stages.specialization import read_prepared
from simgan_captcha.recognizer.distill import LabelledImages
from simgan_captcha.report.report import write_report
from simgan_captcha.web.run_status import run_status
from tests.commands import COMMAND, kill_when
from tests.small_run import (
    PRETRAINED,
    draw_captchas,
    pipeline,
    run_arguments,
    small_config,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, sixty_captchas: Path) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    pipeline(run, sixty_captchas, *PRETRAINED)
    return run


def test_a_distilled_reader_that_is_good_enough_needs_no_simulator(finished: Path) -> None:
    names = [stage.name for stage in recorded_stages(read_run(finished), finished)]
    assert names == ["store", "background", "look", "specialize", "distill", "readings"]
    assert sorted(path.parent.name for path in finished.glob(f"*/{MANIFEST}")) == sorted(names)
    assert read_diagnosis(finished)["kept"] == "distill"
    assert run_status(finished).finished
    assert len(load_readings(finished / READINGS)) == 60


def test_the_first_readings_are_shown_before_training(sixty_captchas: Path, tmp_path: Path) -> None:
    lines: list[str] = []

    class Stop(Exception):
        pass

    class Shown(StageProgress):
        def say(self, line: str) -> None:
            lines.append(line)

        def update(self, step: float, total: float, **figures: float | str) -> None:
            if any(line.startswith("first ") for line in lines):
                raise Stop

    with pytest.raises(Stop):
        pipeline(tmp_path / "run", sixty_captchas, *PRETRAINED, progress=Shown(quiet=True))
    (shown,) = [line for line in lines if line.startswith("first ")]
    assert len(re.findall(r"[abc1]{2} \(\d+%\)", shown)) == 10


def test_its_results_are_used_like_those_of_other_runs(finished: Path, tmp_path: Path) -> None:
    run = Run(finished)
    assert run.estimate == distilled_estimate(finished)
    assert run.estimate.known_accuracy is None
    file = tmp_path / "reader.onnx"
    assert run.export(file).changed == 0
    image = draw_captchas(1)[0][0]
    assert Reader(file).read(image).text == run.read(image).text
    page = write_report(finished).read_text()
    assert "Distilled reader" in page
    assert "The distilled recognizer is not tested on synthetic images." in page
    assert "The run does without the simulator and the stages after it: the distilled" in page
    for section in ("Synthetic and real captchas", "Refiner", "Learning curves"):
        assert f"<h2>{section}</h2>" not in page


def test_a_killed_run_gives_the_same_readings(
    finished: Path, sixty_captchas: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = run_arguments(run, sixty_captchas, *PRETRAINED, "recognizer.checkpoint_every=1")
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.DEVNULL)
    kill_when(process, run / "distill" / "round-2" / "metrics.jsonl", 2)
    again = pipeline(run, sixty_captchas, *PRETRAINED, "recognizer.checkpoint_every=1")
    assert [r.text for r in again] == [r.text for r in load_readings(finished / READINGS)]
    assert (run / "distill/recognizer.safetensors").read_bytes() == (
        finished / "distill/recognizer.safetensors"
    ).read_bytes()


def test_a_poor_distilled_reader_is_followed_by_the_simulator(
    finished: Path, sixty_captchas: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    pipeline(run, sixty_captchas, *PRETRAINED, "distillation.enough=1")
    names = [stage.name for stage in recorded_stages(read_run(run), run)]
    assert names[4:] == ["distill", "simulate", "read", "adapt", "readings"]
    estimates = read_diagnosis(run)["estimates"]
    assert list(estimates) == ["distill", "read", "adapt"]


def test_recognizers_are_compared_on_some_of_many_images(
    finished: Path, sixty_captchas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(final_readings, "COMPARED", 20)
    run = shutil.copytree(finished, tmp_path / "run")
    readings = pipeline(run, sixty_captchas, *PRETRAINED, "distillation.enough=1")
    assert len(readings) == 60
    assert list(read_diagnosis(run)["estimates"]) == ["distill", "read", "adapt"]


def test_a_damaged_manifest_is_repaired(
    finished: Path, sixty_captchas: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "distill" / MANIFEST).write_text("{")
    with pytest.raises(RunError, match="distill"):
        distilled_estimate(run)
    pipeline(run, sixty_captchas, *PRETRAINED)
    assert distilled_estimate(run) == distilled_estimate(finished)


def test_pseudo_labels_fit_the_scheme(finished: Path) -> None:
    labels = json.loads((finished / "specialize" / PSEUDO_LABELS).read_text())
    assert len(labels["names"]) == len(labels["texts"]) == len(labels["confidences"]) == 24
    assert set("".join(labels["texts"])) <= set("abc1")


@pytest.mark.parametrize(
    ("figures", "rounds", "kept", "alphabet"),
    [
        ([(0.5, 0.4), (0.8, 0.7), (0.9, 0.8), (1.0, 0.8)], 3, 2, "ab"),  # each corrects mistakes
        ([(0.5, 0.4), (1.0, 1.0)], 2, 1, "ab"),  # the second leaves few
        ([(1.0, 1.0)], 1, 0, "ab"),
        ([(1.0, 0.7), (1.0, 0.8), (1.0, 1.0)], 1, 2, "ab"),  # it has not learned all texts yet
        ([(1.0, n / 10) for n in range(9)], 1, 4, "ab"),  # four longer trainings at most
        ([(0.5, 0.7), (0.9, 0.6)], 1, 0, "äb"),  # the generalist does not know this letter
    ],
)
def test_rounds_go_on_until_the_texts_are_stable_and_learned(
    figures: list[tuple[float, float]],
    rounds: int,
    kept: int,
    alphabet: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stability and agreement after each training; some trainings are rounds, the others longer."""
    config = small_config(*PRETRAINED, "distillation.rounds=3", f"scheme.alphabet={alphabet}")
    data: Any = SimpleNamespace(config=config, run=Path())
    begun = list[Any]()

    def train(self: object, lesson: Lesson, number: int, **more: Any) -> Any:
        begun.append(more.get("begun"))
        stability, agreement = figures[number]
        return SimpleNamespace(
            result=number, lesson=lesson, stability=stability, agreement=agreement
        )

    monkeypatch.setattr(distillation, "simulator_came_first", lambda data: False)
    monkeypatch.setattr(distillation._Rounds, "train", train)
    monkeypatch.setattr(
        distillation._Rounds, "taught_back", lambda rounds, latest, number: latest.lesson
    )
    found = distillation._Rounds(data, Path(), [], lambda *_: None).learn(lesson_of(10))
    assert len(found.trained) == min(len(figures), 5)
    assert cast(Any, found.kept) == kept
    assert found.agreement == figures[kept][1]
    assert [one is None for one in begun] == [number < rounds for number in range(len(begun))]


def lesson_of(count: int, known: tuple[int, ...] = ()) -> Lesson:
    ids = np.arange(2 * count).reshape(count, 2) % 4
    pixels = np.arange(count, dtype=np.uint8)[:, None, None]
    return Lesson(LabelledImages(pixels, ids, np.isin(np.arange(count), known)), taught=0.9)


def test_one_image_in_ten_is_held_out_unless_its_text_is_known() -> None:
    lesson = lesson_of(35, known=(3, 19))
    assert np.flatnonzero(lesson.held_out).tolist() == [9, 29]
    learned = lesson.learned
    assert learned.pixels.ravel().tolist() == [n for n in range(35) if n not in (9, 29)]
    assert np.flatnonzero(learned.known).tolist() == [3, 18]
    read = np.eye(4, dtype=np.float32)[lesson.images.ids]
    read[[9, 10], 0] = read[[9, 10], 0][:, ::-1]  # a mistake in each
    latest = distillation._Round(cast(Any, None), lesson, read)
    assert latest.agreement == 0.5
    assert latest.stability == pytest.approx(33 / 35)
    few = distillation._Round(cast(Any, None), lesson_of(5), read[:5])
    assert few.agreement == 1.0


@pytest.mark.parametrize(("agreement", "count"), [(0.64, 1), (0.8, 0), (0.9, 0)])
def test_a_reader_that_learned_its_images_by_heart_is_warned_of(
    agreement: float, count: int
) -> None:
    learned = distillation.Distilled([], cast(Any, None), 0.9, agreement, 0.87, 0)
    assert len(learned.warnings) == count
    for warning in learned.warnings:
        assert "on 87% of all images, and on 64% of those that it did not learn from" in warning


def learned_in_rounds(
    finished: Path, folder: Path, most: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Any], distillation.Distilled]:
    """Trainings as (lesson, begun, result), with this many rounds at most."""
    rounds, train = list[Any](), distillation._Rounds.train

    def training(self: Any, lesson: Lesson, number: int, **more: Any) -> Any:
        rounds.append((lesson, more.get("begun"), train(self, lesson, number, **more)))
        return rounds[-1][2]

    monkeypatch.setattr(distillation._Rounds, "train", training)
    config = small_config(*PRETRAINED, f"distillation.rounds={most}")
    data = RunData(finished, config, 1, Fabric(accelerator="cpu", devices=1), print)
    teacher = TeacherTexts.of_stage(finished / "specialize")
    return rounds, distillation.learn_texts(data, folder, teacher, {}, lambda *_: None)


def test_a_recognizer_that_does_not_agree_with_its_teacher_goes_on_with_the_same_texts(
    finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rounds, found = learned_in_rounds(finished, tmp_path, 1, monkeypatch)
    (lesson, _, first), (same, begun, _), *_ = rounds
    assert first.agreement < 0.98  # after 6 steps
    assert begun is first
    np.testing.assert_array_equal(same.images.ids, lesson.images.ids)
    best = max((one for _, _, one in rounds), key=lambda one: float(one.agreement))
    assert found.agreement == best.agreement
    assert found.kept is best.result


def test_generalist_and_recognizer_learn_each_other_s_readings(
    finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    taught, read = list[Any](), list[Any]()

    def specializing(*given: Any, **more: Any) -> Any:
        taught.append(more["given"].readings)
        return specialize(*given, **more)

    def reading(*given: Any) -> Any:
        read.append(read_prepared(*given))
        return read[-1]

    monkeypatch.setattr(distillation, "specialize", specializing)
    monkeypatch.setattr(distillation, "read_prepared", reading)
    rounds, found = learned_in_rounds(finished, tmp_path, 4, monkeypatch)
    scheme = small_config(*PRETRAINED).scheme
    assert len(found.trained) == len(rounds)
    rounds = [one for one in rounds if one[1] is None]
    assert len(rounds) == len(taught) + 1 > 1
    for texts, decoded, (_, _, before), (lesson, _, _) in zip(
        taught, read, rounds[:-1], rounds[1:], strict=True
    ):
        assert [text for text, _ in texts] == [
            scheme.decode(ids) for ids in before.read.argmax(-1).tolist()
        ]
        assert [scheme.decode(ids) for ids in lesson.images.ids.tolist()] == [
            one.text for one in decoded
        ]
        assert lesson.taught == pytest.approx(np.mean([one.confidence for one in decoded]))


@pytest.mark.parametrize(
    ("settings", "begins"),
    [
        ((), True),
        (("pretrained=false",), False),
        (("scheme.alphabet=äb",), False),
        (("scheme.length=40", "scheme.width=120"), False),
        (("generator=original",), False),
    ],
)
def test_a_run_starts_with_the_generalist_if_it_supports_the_scheme(
    settings: tuple[str, ...], begins: bool
) -> None:
    assert small_config(*PRETRAINED, *settings).begins_pretrained is begins


def test_an_estimate_is_limited_by_that_of_a_better_recognizer() -> None:
    """The second reader claims 88 %, but agrees with one that is 90 % right in a quarter only."""
    claimed = Estimate(0.88, 0.82, 0.9, known_accuracy=0.9)
    sure = Estimate(0.93, 0.9, 0.95)
    limited = limited_by_agreement(claimed, 0.25, sure)
    assert limited.accuracy == limited.high == pytest.approx(0.35)
    assert limited_by_agreement(claimed, 0.9, sure) == claimed
    unsure = Estimate(0.4, 0.1, 0.6)
    assert limited_by_agreement(claimed, 0.25, unsure) == claimed


@pytest.mark.parametrize(("sure", "kept"), [(0.6, "distill"), (0.99, "adapt")])
def test_two_recognizers_judge_each_other(sure: float, kept: str) -> None:
    """Synthetic images that are easier than the real ones make an estimate too high.

    The distilled recognizer is 80 % sure of 400 texts, and the other one gives half of these texts.
    If that one is less sure, the distilled one reads the images, whatever the estimates.
    """
    config, count = small_config(), 400
    classes = config.scheme.classes

    def probabilities(confidence: float, other: int) -> final_readings._Probabilities:
        L = config.scheme.max_length
        found = np.full((count, L, classes), (1 - confidence) / (classes - 1), np.float32)
        found[np.arange(count), :, np.where(np.arange(count) < other, 1, 0)] = confidence
        return final_readings._Probabilities(found, np.zeros((0, L, classes), np.float32))

    data = SimpleNamespace(config=config, captchas=([str(n) for n in range(count)], None))
    estimates = {"distill": Estimate(0.5, 0.2, 0.8), "adapt": Estimate(0.7, 0.6, 0.8)}
    compared = {"distill": probabilities(0.8, 0), "adapt": probabilities(sure, 200)}
    assert final_readings._choose(cast(RunData, data), estimates, compared) == kept
    one = {"adapt": compared["adapt"]}
    assert (
        final_readings._choose(cast(RunData, data), {"adapt": estimates["adapt"]}, one) == "adapt"
    )


def test_an_estimate_is_limited_by_the_first_readings_of_the_generalist() -> None:
    """The generalist is right in half of 400 texts; a perfect reader agrees with those."""
    claimed, half = Estimate(0.9, 0.85, 0.95, known_accuracy=0.9), [0.5] * 400
    perfect = [True, False] * 200
    assert limited_by_readings(claimed, half, perfect) == claimed
    poor = [n % 5 == 0 for n in range(400)]  # agrees in 20 %: right in 40 %
    # Two standard errors of sum(c a) / sum(c^2) with c = 0.5 are 2 sqrt(400 / 16) / 100 = 0.1.
    assert limited_by_readings(claimed, half, poor).accuracy == pytest.approx(0.5)
    assert limited_by_readings(claimed, [0.0] * 9, [False] * 9) == claimed
