"""The strength report: what is changed, what is measured, and the page of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simgan_captcha.audit import ChangedSimulator, changes
from simgan_captcha.audit_page import AUDIT, PAGE
from simgan_captcha.background import plain_background
from simgan_captcha.scheme import Scheme
from simgan_captcha.simulator import Simulator, SimulatorSettings
from tests.commands import command
from tests.small_run import draw_captchas, pipeline, write_challenges

CLEAN = Scheme(alphabet="abc1", length=3, width=72, height=30)
CLUTTERED = CLEAN.model_copy(update={"clutter": ("lines", "dots")})
SETTINGS = SimulatorSettings(fonts=("roboto-black", "caladea"), size=(14, 16), noise=(0, 0))


def drawn(scheme: Scheme, name: str, count: int = 60) -> tuple[Any, Any]:
    simulator = Simulator(scheme, SETTINGS, plain_background(30, 72, 200))
    _, change = changes(scheme)[name]
    return ChangedSimulator(simulator, change).batch(np.random.default_rng(3), count)


@pytest.mark.parametrize("scheme", [CLEAN, CLUTTERED])
def test_every_change_changes_the_picture_and_not_the_text(scheme: Scheme) -> None:
    images, ids = drawn(scheme, "as it is")
    names = list(changes(scheme))
    assert names[0] == "as it is"
    for name in names[1:]:
        changed, still = drawn(scheme, name)
        assert np.array_equal(still, ids), name
        assert (changed != images).any((1, 2)).mean() > 0.8, name


def test_clutter_goes_and_more_comes() -> None:
    assert "without clutter" in changes(CLUTTERED)
    assert "without clutter" not in changes(CLEAN)
    ink = {
        name: (drawn(CLUTTERED, name)[0] > 60).mean()
        for name in ("without clutter", "as it is", "twice the lines")
    }
    assert ink["without clutter"] < 0.95 * ink["as it is"]
    assert ink["as it is"] < 0.95 * ink["twice the lines"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit")
    write_challenges(folder / "challenges", draw_captchas())
    pipeline(folder / "run", folder / "challenges", "refine=false", "adaptation.steps=0")
    return folder / "run"


def test_an_owner_gets_figures_and_a_page(run: Path) -> None:
    done = command("audit", run, "--images", "40", "--steps", "3", "--quiet")
    assert done.code == 0, done.err
    assert "of captchas fall" in done.out
    figures = json.loads((run / AUDIT).read_text())
    assert [change["name"] for change in figures["changes"]] == list(changes(CLEAN))
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
    page = (run / PAGE).read_text()
    assert "How weak is this captcha?" in page
    assert page.count("data:image/") == len(figures["changes"])
    assert "http" not in page.replace("http-equiv", "")


def test_the_same_seed_finds_the_same(run: Path) -> None:
    found = []
    for _ in range(2):
        done = command("audit", run, "--images", "20", "--steps", "2", "--quiet")
        assert done.code == 0, done.err
        found.append(json.loads((run / AUDIT).read_text())["changes"])
    assert found[0] == found[1]


def test_an_unfinished_run_is_not_audited(tmp_path: Path) -> None:
    done = command("audit", tmp_path)
    done.error(1, "expected a run in .* found no run.json")
