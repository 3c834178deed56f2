"""The strength report: what is changed, what is measured, and the page of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simgan_captcha.data.background import plain_background
from simgan_captcha.evaluation.audit.figures import BROKEN
from simgan_captcha.evaluation.audit.measure import ChangedSimulator, changes
from simgan_captcha.evaluation.audit.page import AUDIT, MARKDOWN, PAGE
from simgan_captcha.evaluation.audit.verdict import CHECKLIST, severity_of
from simgan_captcha.inference.readings import load_readings
from simgan_captcha.pipeline.estimate import Estimate
from simgan_captcha.pipeline.lesson import TEACH, Lesson, save_lesson
from simgan_captcha.pipeline.run_folder import JUDGEMENT, READER, READINGS
from simgan_captcha.scheme import Scheme
from simgan_captcha.simulator.settings import SimulatorSettings
from simgan_captcha.simulator.simulator import Simulator
from tests.commands import command
from tests.small_run import draw_captchas, pipeline, write_challenges

CLEAN = Scheme(alphabet="abc1", length=3, width=72, height=30)
CLUTTERED = CLEAN.model_copy(update={"clutter": ("lines", "dots")})
STAGES_HAD = ("store", "background", "simulate", "read", "readings")
SETTINGS = SimulatorSettings(fonts=("roboto-black", "caladea"), size=(14, 16), noise=(0, 0))


def simulator_of(scheme: Scheme) -> Simulator:
    return Simulator(scheme, SETTINGS, plain_background(30, 72, 200))


def drawn(scheme: Scheme, name: str, count: int = 60) -> tuple[Any, Any]:
    simulator = simulator_of(scheme)
    _, change = changes(simulator)[name]
    return ChangedSimulator(simulator, change).batch(np.random.default_rng(3), count)


@pytest.mark.parametrize("scheme", [CLEAN, CLUTTERED])
def test_every_change_changes_the_picture_and_not_the_text(scheme: Scheme) -> None:
    images, ids = drawn(scheme, "as it is")
    names = list(changes(simulator_of(scheme)))
    assert names[0] == "as it is"
    for name in names[1:]:
        changed, still = drawn(scheme, name)
        assert np.array_equal(still, ids), name
        assert (changed != images).any((1, 2)).mean() > 0.8, name


def test_clutter_goes_and_more_comes() -> None:
    assert "without clutter" not in changes(simulator_of(CLEAN))
    dotted = changes(simulator_of(CLEAN.model_copy(update={"clutter": ("dots",)})))
    assert {"lines", "without clutter"} < dotted.keys()
    assert dotted["without clutter"][0] == "dots left out"
    on_black = changes(simulator_of(CLEAN.model_copy(update={"background": "plain"})))
    assert "fainter" not in on_black  # there is no such thing where ink is made equally strong
    ink = {
        name: (drawn(CLUTTERED, name)[0] > 60).mean()
        for name in ("without clutter", "as it is", "more lines")
    }
    assert ink["without clutter"] < 0.95 * ink["as it is"]
    assert ink["as it is"] < 0.95 * ink["more lines"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit")
    write_challenges(folder / "challenges", draw_captchas())
    pipeline(folder / "run", folder / "challenges", "recognizer.images=raw", "adaptation.steps=0")
    return folder / "run"


def test_an_owner_gets_figures_and_a_page(run: Path) -> None:
    done = command("audit", run, "--images", "40", "--steps", "3", "--quiet")
    assert done.code == 0, done.err
    assert "of captchas are read, as estimated without labels" in done.out
    figures = json.loads((run / AUDIT).read_text())
    # The run's simulator has one font: any of its fonts is the same.
    expected = [name for name in changes(simulator_of(CLEAN)) if name != "many fonts"]
    assert [change["name"] for change in figures["changes"]] == expected
    for change in figures["changes"]:
        for when in ("as_it_is", "learned_on"):
            of = change[when]
            assert 0 <= of["low"] <= of["share"] <= of["high"] <= 1
            assert change["name"][:12] in done.out
    manifests = [json.loads(path.read_text()) for path in run.glob("*/manifest.json")]
    flops = sum(manifest["training_flops"] for manifest in manifests)
    assert figures["cost"]["training_tflop"] == pytest.approx(flops / 1e12)
    assert figures["cost"]["unlabelled_images"] == 240
    assert figures["training_flops"] > 0
    assert figures["judged"] is None
    falls = figures["estimate"]["accuracy"]
    assert figures["verdict"]["share"] == falls
    assert figures["verdict"]["severity"] == str(severity_of(falls))
    assert f"severity: {figures['verdict']['severity']}; " in done.out
    assert figures["speed"]["texts_per_hour"] > 0
    assert figures["speed"]["images"] == 240
    assert figures["looked_at"]["of"] == 240
    assert [row["name"] for row in figures["readers"]] == ["generalist"]
    assert len(figures["checklist"]) == len(CHECKLIST)
    markdown = (run / MARKDOWN).read_text()
    page = (run / PAGE).read_text()
    assert "How weak is this captcha?" in page
    for check in CHECKLIST:
        assert check.question in markdown
        assert check.question in page
    for finding in figures["findings"]:
        assert finding["fix"] in markdown
        assert finding["severity"] in page
    assert page.count("data:image/") == len(figures["changes"])
    assert "http" not in page.replace("http-equiv", "")


def test_folders_of_earlier_settings_are_no_cost_and_judgements_count(run: Path) -> None:
    manifest = json.loads((run / "read" / "manifest.json").read_text())
    for stage in ("refine", "adapt"):  # which the run does not have as it is now
        (run / stage).mkdir()
        (run / stage / "manifest.json").write_text(json.dumps(manifest))
    truths = [f"{name},ab" for name in "xyz"]
    names = [reading.name for reading in load_readings(run / READINGS)]
    rows = [f"{name},{'ab' if n else 'cc'}" for n, name in enumerate(names)]
    (run.parent / "labels.csv").write_text("\n".join(["name,label", *rows, *truths]))
    assert command("judge", run, "--labels", run.parent / "labels.csv").code == 0
    done = command("audit", run, "--images", "20", "--steps", "1", "--quiet")
    assert done.code == 0, done.err
    figures = json.loads((run / AUDIT).read_text())
    costs = [json.loads((run / stage / "manifest.json").read_text()) for stage in STAGES_HAD]
    flops = sum(cost["training_flops"] for cost in costs)
    assert figures["cost"]["training_tflop"] == pytest.approx(flops / 1e12)
    judged = json.loads((run / JUDGEMENT).read_text())
    assert figures["judged"]["captcha_accuracy"] == judged["captcha_accuracy"]
    assert figures["broken"] == (judged["captcha_interval"][0] >= BROKEN)
    (run / JUDGEMENT).unlink()
    for stage in ("refine", "adapt"):
        (run / stage / "manifest.json").unlink()
        (run / stage).rmdir()


def test_what_a_taught_run_gained_by_labels_is_in_the_audit(tmp_path: Path, run: Path) -> None:
    taught = tmp_path / "run"
    shutil.copytree(run, taught)
    brief = ["--images", "10", "--steps", "1", "--quiet"]
    assert "labels: " not in command("audit", taught, *brief).out
    assert "This was not measured" in (taught / PAGE).read_text()
    before, after = Estimate(0.5, 0.4, 0.6), Estimate(0.75, 0.7, 0.8)
    (taught / TEACH).mkdir()
    shutil.copy(taught / "read" / READER, taught / TEACH / READER)
    save_lesson(taught, Lesson(12, 5, 9, before, after, better=True))
    done = command("audit", taught, *brief)
    said = "With 12 labels: 75.0% instead of 50.0% of texts are read, as estimated; 9 instead of 5"
    assert said in done.out
    assert said in (taught / PAGE).read_text()
    assert said in (taught / MARKDOWN).read_text()
    assert json.loads((taught / AUDIT).read_text())["labels"]["labels"] == 12


def test_a_pipeline_fails_from_a_severity_on(run: Path) -> None:
    brief = ["--images", "10", "--steps", "1", "--quiet"]
    # 240 drawn texts of two characters, read by a net that has hardly learned.
    done = command("audit", run, *brief, "--fail-on", "low")
    assert done.code == 3, done.err
    assert "page: " in done.out
    severity = json.loads((run / AUDIT).read_text())["verdict"]["severity"]
    done = command("audit", run, *brief, "--fail-on", "high", "--json")
    assert done.code == (3 if severity == "high" else 0)
    assert json.loads(done.out) == json.loads((run / AUDIT).read_text())
    assert command("audit", run, "--fail-on", "never").code == 2
    command("audit", run, "--with", "another").error(2, "expected --with ddddocr, got 'another'")


def test_a_run_that_draws_as_the_seed_did_is_refused(tmp_path: Path, run: Path) -> None:
    other = tmp_path / "run"
    shutil.copytree(run, other)
    for name in ("run.json", "finished.json"):
        text = (other / name).read_text().replace('"generator": "fonts"', '"generator": "original"')
        (other / name).write_text(text)
    command("audit", other).error(2, "expected a run that draws with fonts")


def test_the_same_seed_finds_the_same(run: Path) -> None:
    found = []
    for _ in range(2):
        done = command("audit", run, "--images", "20", "--steps", "2", "--quiet")
        assert done.code == 0, done.err
        found.append(json.loads((run / AUDIT).read_text())["changes"])
    assert found[0] == found[1]


def test_a_folder_without_a_run_is_not_audited(tmp_path: Path) -> None:
    done = command("audit", tmp_path)
    done.error(1, "expected a run in .* found no run.json")
