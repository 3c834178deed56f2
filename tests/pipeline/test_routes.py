"""The routes of a run: from the generalist, from the simulator, or from both, at tiny size."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from simgan_captcha.generalist.specialization.specialize import GivenTexts, specialize
from simgan_captcha.pipeline import routes
from simgan_captcha.pipeline.estimate import checked_estimate, checked_rescoring
from simgan_captcha.pipeline.manifest import MANIFEST, require_manifest
from simgan_captcha.pipeline.routes import recorded_stages
from simgan_captcha.pipeline.run import opened
from simgan_captcha.pipeline.run_folder import TeacherTexts, read_diagnosis, read_run
from simgan_captcha.pipeline.stages import distillation, specialization
from simgan_captcha.recognizer.decode import decode, read_probabilities
from simgan_captcha.recognizer.train import train_recognizer
from simgan_captcha.report.report import write_report
from simgan_captcha.web.run_status import run_status
from tests.small_run import CALIBRATED, PRETRAINED, draw_captchas, pipeline, write_challenges


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run that begins with the simulator, and its challenges."""
    folder = tmp_path_factory.mktemp("simulated")
    write_challenges(folder / "batches", draw_captchas(240))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routes, "UNKNOWN", 1.1)
        pipeline(folder / "run", folder / "batches", *PRETRAINED, *CALIBRATED)
    return folder / "run", folder / "batches"


def test_a_family_that_the_generalist_does_not_know_begins_with_the_simulator(
    simulated: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "UNKNOWN", 1.1)
    run, _ = simulated
    names = [stage.name for stage in recorded_stages(read_run(run), run)]
    after = ["simulate", "calibrate", "read", "check", "adapt", "readings"]
    assert names == ["store", "background", "look", *after]
    assert sorted(path.parent.name for path in run.glob(f"*/{MANIFEST}")) == sorted(names)
    assert list(read_diagnosis(run)["estimates"]) == ["read", "adapt"]
    assert checked_estimate(run).known_accuracy is not None
    assert require_manifest(run / "check")["result"]["rescores"] == checked_rescoring(run)
    assert run_status(run).finished
    assert "The run does without specialization of the generalist" in write_report(run).read_text()


def test_a_good_reader_of_the_simulator_is_not_adapted(
    simulated: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "UNKNOWN", 1.1)
    finished, challenges = simulated
    run = shutil.copytree(finished, tmp_path / "run")
    accuracy = checked_estimate(run).accuracy
    for enough, rescores in ((accuracy + 0.001, True), (accuracy, False), (accuracy, True)):
        adapted = enough > accuracy or not rescores
        manifest = json.loads((run / "check" / MANIFEST).read_text())
        manifest["result"]["rescores"] = rescores
        (run / "check" / MANIFEST).write_text(json.dumps(manifest))
        pipeline(run, challenges, *PRETRAINED, *CALIBRATED, f"adaptation.enough={enough}")
        names = [stage.name for stage in recorded_stages(read_run(run), run)]
        assert ("adapt" in names) == adapted
        assert list(read_diagnosis(run)["estimates"]) == ["read", "adapt"][: 1 + adapted]
        assert require_manifest(run / "check")["result"]["rescores"] == rescores
        for stage in ("read", "adapt"):  # the setting changes no finished stage
            before, after = (folder / stage / MANIFEST for folder in (finished, run))
            assert after.read_bytes() == before.read_bytes()
    both = "specialization of the generalist and adaptation"
    page = write_report(run).read_text()
    assert f"The run does without {both}: the simulator&#39;s reader is estimated" in page


@pytest.mark.parametrize("better", [True, False])
def test_a_poor_reader_of_the_simulator_is_followed_by_the_generalist(
    better: bool,
    simulated: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It does not adapt, and teaches the generalist if it is the better one of the two."""
    monkeypatch.setattr(routes, "UNKNOWN", 1.1)
    monkeypatch.setattr(specialization, "first_is_better", lambda first, second: better)
    learned = list[GivenTexts]()

    def recorded(*arguments: Any, given: GivenTexts, **more: Any) -> Any:
        learned.append(given)
        return specialize(*arguments, given=given, **more)

    begun = list[Any]()

    def training(*arguments: Any, initial: Any, **more: Any) -> Any:
        begun.append(initial)
        return train_recognizer(*arguments, initial=initial, **more)

    monkeypatch.setattr(specialization, "specialize", recorded)
    monkeypatch.setattr(distillation, "train_recognizer", training)
    finished, challenges = simulated
    run = shutil.copytree(finished, tmp_path / "run")
    pipeline(run, challenges, *PRETRAINED, *CALIBRATED, "distillation.enough=1")
    names = [stage.name for stage in recorded_stages(read_run(run), run)]
    assert names[-5:] == ["read", "check", "specialize", "distill", "readings"]
    diagnosis = read_diagnosis(run)
    assert list(diagnosis["estimates"]) == ["read", "distill"]
    warned = [one for one in diagnosis["warnings"] if "the reader of" in one]
    assert [one.split()[3] for one in warned] == (
        ["distill"] if diagnosis["kept"] == "read" else []
    )
    for stage in ("calibrate", "read"):  # it was not trained again
        assert (run / stage / MANIFEST).read_bytes() == (finished / stage / MANIFEST).read_bytes()
    page = write_report(run).read_text()
    assert "The run does without adaptation: the simulator&#39;s reader is estimated" in page
    manifest = require_manifest(run / "specialize")
    assert manifest["result"]["learned_from"] == ("read" if better else "generalist")
    with opened(run) as data:
        weights = data.recognizer("read").state_dict()
    for name, value in begun[0].state_dict().items():
        assert torch.equal(value, weights[name])
    (given,) = learned
    if better:
        assert given.readings == texts_of_stage(run, "read")
    else:
        assert given.readings is None


def texts_of_stage(run: Path, stage: str) -> list[tuple[str, float]]:
    """Text and confidence, by the recognizer of a stage, of the images that are specialized on."""
    with opened(run) as data:
        names = TeacherTexts.of_stage(run / "specialize").names
        read = read_probabilities(
            data.recognizer(stage), data.background(), data.images_named(names)
        )
        return [(one.text, one.confidence) for one in decode(data.config.scheme, names, read)]


@pytest.mark.parametrize("unknown", [0.0, 1.1])
def test_a_run_goes_on_where_calibration_fails(
    unknown: float, sixty_captchas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bootstrap recognizer that takes one step reads nothing with confidence."""
    monkeypatch.setattr(routes, "UNKNOWN", unknown)
    brief = ("calibration.first_steps=1", "calibration.rounds=1", "distillation.enough=1")
    run = tmp_path / "run"
    readings = pipeline(run, sixty_captchas, *PRETRAINED, *CALIBRATED, *brief)
    names = [stage.name for stage in recorded_stages(read_run(run), run)]
    order = [["specialize", "distill"], ["simulate", "calibrate"]]
    first, second = order if unknown == 0 else reversed(order)
    assert names == ["store", "background", "look", *first, *second, "readings"]
    assert len(readings) == 60
    assert read_diagnosis(run)["kept"] == "distill"
    assert run_status(run).finished
    assert "the run goes on with the generalist alone" in write_report(run).read_text()
