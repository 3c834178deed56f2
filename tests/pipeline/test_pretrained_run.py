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
from simgan_captcha.pipeline import graph
from simgan_captcha.pipeline.estimate import (
    Estimate,
    checked_estimate,
    distilled_estimate,
    limited_by_agreement,
    limited_by_readings,
)
from simgan_captcha.pipeline.graph import recorded_stages
from simgan_captcha.pipeline.manifest import MANIFEST
from simgan_captcha.pipeline.progress import StageProgress
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
    CALIBRATED,
    PRETRAINED,
    draw_captchas,
    pipeline,
    run_arguments,
    small_config,
    write_challenges,
)


@pytest.fixture(scope="module")
def challenges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("challenges") / "batches"
    write_challenges(folder, draw_captchas(60))
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, challenges: Path) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    pipeline(run, challenges, *PRETRAINED)
    return run


def test_a_distilled_reader_that_is_good_enough_needs_no_simulator(finished: Path) -> None:
    names = [stage.name for stage in recorded_stages(read_run(finished), finished)]
    assert names == ["store", "background", "look", "specialize", "distill", "readings"]
    assert sorted(path.parent.name for path in finished.glob(f"*/{MANIFEST}")) == sorted(names)
    assert read_diagnosis(finished)["kept"] == "distill"
    assert run_status(finished).finished
    assert len(load_readings(finished / READINGS)) == 60


def test_the_first_readings_are_shown_before_training(challenges: Path, tmp_path: Path) -> None:
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
        pipeline(tmp_path / "run", challenges, *PRETRAINED, progress=Shown(quiet=True))
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
    finished: Path, challenges: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = run_arguments(run, challenges, *PRETRAINED, "recognizer.checkpoint_every=1")
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.DEVNULL)
    kill_when(process, run / "distill" / "round-2" / "metrics.jsonl", 2)
    again = pipeline(run, challenges, *PRETRAINED, "recognizer.checkpoint_every=1")
    assert [r.text for r in again] == [r.text for r in load_readings(finished / READINGS)]
    assert (run / "distill/recognizer.safetensors").read_bytes() == (
        finished / "distill/recognizer.safetensors"
    ).read_bytes()


def test_a_poor_distilled_reader_is_followed_by_the_simulator(
    finished: Path, challenges: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    pipeline(run, challenges, *PRETRAINED, "distillation.enough=1")
    names = [stage.name for stage in recorded_stages(read_run(run), run)]
    assert names[4:] == ["distill", "simulate", "read", "adapt", "readings"]
    estimates = read_diagnosis(run)["estimates"]
    assert list(estimates) == ["distill", "read", "adapt"]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run that begins with the simulator, and its challenges."""
    folder = tmp_path_factory.mktemp("simulated")
    write_challenges(folder / "batches", draw_captchas(240))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "UNKNOWN", 1.1)
        pipeline(folder / "run", folder / "batches", *PRETRAINED, *CALIBRATED)
    return folder / "run", folder / "batches"


def test_a_family_that_the_generalist_does_not_know_begins_with_the_simulator(
    simulated: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "UNKNOWN", 1.1)
    run, _ = simulated
    names = [stage.name for stage in recorded_stages(read_run(run), run)]
    after = ["simulate", "calibrate", "read", "adapt", "check", "readings"]
    assert names == ["store", "background", "look", *after]
    assert sorted(path.parent.name for path in run.glob(f"*/{MANIFEST}")) == sorted(names)
    assert list(read_diagnosis(run)["estimates"]) == ["read", "adapt"]
    assert checked_estimate(run).known_accuracy is not None
    assert run_status(run).finished
    assert "The run does without specialization of the generalist" in write_report(run).read_text()


def test_a_poor_reader_of_the_simulator_is_followed_by_the_generalist(
    simulated: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "UNKNOWN", 1.1)
    finished, challenges = simulated
    run = shutil.copytree(finished, tmp_path / "run")
    pipeline(run, challenges, *PRETRAINED, *CALIBRATED, "distillation.enough=1")
    names = [stage.name for stage in recorded_stages(read_run(run), run)]
    assert names[-4:] == ["check", "specialize", "distill", "readings"]
    estimates = read_diagnosis(run)["estimates"]
    assert list(estimates) == ["distill", "read", "adapt"]
    for stage in ("calibrate", "read", "adapt"):  # it was not trained again
        assert (run / stage / MANIFEST).read_bytes() == (finished / stage / MANIFEST).read_bytes()


@pytest.mark.parametrize("unknown", [0.0, 1.1])
def test_a_run_goes_on_where_calibration_fails(
    unknown: float, challenges: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bootstrap recognizer that takes one step reads nothing with confidence."""
    monkeypatch.setattr(graph, "UNKNOWN", unknown)
    brief = ("calibration.first_steps=1", "calibration.rounds=1", "distillation.enough=1")
    run = tmp_path / "run"
    readings = pipeline(run, challenges, *PRETRAINED, *CALIBRATED, *brief)
    names = [stage.name for stage in recorded_stages(read_run(run), run)]
    order = [["specialize", "distill"], ["simulate", "calibrate"]]
    first, second = order if unknown == 0 else reversed(order)
    assert names == ["store", "background", "look", *first, *second, "readings"]
    assert len(readings) == 60
    assert read_diagnosis(run)["kept"] == "distill"
    assert run_status(run).finished
    assert "the run goes on with the generalist alone" in write_report(run).read_text()


def test_recognizers_are_compared_on_some_of_many_images(
    finished: Path, challenges: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(final_readings, "COMPARED", 20)
    run = shutil.copytree(finished, tmp_path / "run")
    readings = pipeline(run, challenges, *PRETRAINED, "distillation.enough=1")
    assert len(readings) == 60
    assert list(read_diagnosis(run)["estimates"]) == ["distill", "read", "adapt"]


def test_a_damaged_manifest_is_repaired(finished: Path, challenges: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "distill" / MANIFEST).write_text("{")
    with pytest.raises(RunError, match="distill"):
        distilled_estimate(run)
    pipeline(run, challenges, *PRETRAINED)
    assert distilled_estimate(run) == distilled_estimate(finished)


def test_pseudo_labels_fit_the_scheme(finished: Path) -> None:
    labels = json.loads((finished / "specialize" / PSEUDO_LABELS).read_text())
    assert len(labels["names"]) == len(labels["texts"]) == len(labels["confidences"]) == 24
    assert set("".join(labels["texts"])) <= set("abc1")


@pytest.mark.parametrize(
    ("stabilities", "confidence", "trained", "alphabet"),
    [
        ([0.5, 0.8, 0.9], 0.95, 3, "ab"),  # each round corrects mistakes
        ([0.5, 1.0], 0.95, 2, "ab"),  # the second leaves few
        ([1.0], 0.95, 1, "ab"),
        ([1.0, 1.0], 0.85, 2, "ab"),  # less sure than the teacher: goes on
        ([0.5, 0.8, 0.9, 0.9], 0.85, 4, "ab"),
        ([0.5], 0.95, 1, "äb"),  # the generalist does not know this letter
    ],
)
def test_rounds_go_on_until_readings_are_stable_and_learned(
    stabilities: list[float],
    confidence: float,
    trained: int,
    alphabet: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A round of stability s reads s * 10 of 10 images as it learned them."""
    config = small_config(*PRETRAINED, "distillation.rounds=3", f"scheme.alphabet={alphabet}")
    data: Any = SimpleNamespace(config=config)
    begun = list[Any]()

    def train(rounds: object, lesson: Lesson, number: int, **more: Any) -> distillation._Round:
        ids = lesson.images.ids.copy()
        ids[round(10 * stabilities[number]) :] += 1
        read = np.eye(4, dtype=np.float32)[ids % 4] * confidence**0.5
        begun.append(more.get("begun"))
        return distillation._Round(cast(Any, SimpleNamespace(reader=number)), lesson, read)

    monkeypatch.setattr(distillation._Rounds, "train", train)
    monkeypatch.setattr(
        distillation._Rounds, "taught_back", lambda rounds, latest, number: latest.lesson
    )
    images = LabelledImages(
        np.zeros((10, 24, 48), np.uint8), np.zeros((10, 2), np.int64), np.zeros(10, np.bool_)
    )
    rounds = distillation._Rounds(data, Path(), [], lambda *_: None)
    found = rounds.learn(Lesson(images, taught=0.9))
    assert len(found.trained) == trained
    assert cast(Any, found.kept.reader) == trained - 1
    assert [one is not None for one in begun] == [False] * (trained - 1) + [confidence < 0.9]


def learned_in_rounds(
    finished: Path, folder: Path, sure: float, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Any], distillation.Distilled]:
    """Rounds as (lesson, begun, result), of a teacher that is as sure of each text."""
    rounds, train = list[Any](), distillation._Rounds.train

    def training(self: Any, lesson: Lesson, number: int, **more: Any) -> Any:
        rounds.append((lesson, more.get("begun"), train(self, lesson, number, **more)))
        return rounds[-1][2]

    monkeypatch.setattr(distillation._Rounds, "train", training)
    config = small_config(*PRETRAINED, "distillation.rounds=4")
    data = RunData(finished, config, 1, Fabric(accelerator="cpu", devices=1), print)
    teacher = TeacherTexts.of_stage(finished / "specialize")
    teacher = teacher._replace(confidences=[sure] * len(teacher.names))
    return rounds, distillation.learn_texts(data, folder, teacher, {}, lambda *_: None)


def test_a_recognizer_that_is_less_sure_than_its_teacher_goes_on_with_the_same_texts(
    finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(distillation, "_STABLE", 0.0)
    rounds, found = learned_in_rounds(finished, tmp_path, 0.99, monkeypatch)
    (lesson, _, first), (same, begun, last) = rounds
    assert first.confidence < 0.99  # after 6 steps
    assert begun is first
    np.testing.assert_array_equal(same.images.ids, lesson.images.ids)
    assert found.kept is last.result


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
    rounds, found = learned_in_rounds(finished, tmp_path, 0.01, monkeypatch)
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
