import io
import json
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from simgan_captcha.config.settings import RunConfig
from simgan_captcha.data.background import Background
from simgan_captcha.data.store import CaptchaStore
from simgan_captcha.errors import ConfigError, RunError, SimganCaptchaError, StoreError, UsageError
from simgan_captcha.inference.readings import Reading, load_readings
from simgan_captcha.pipeline.cost import (
    COMPARED,
    KNOWN,
    planned_training_flops,
    recognizer_architecture,
)
from simgan_captcha.pipeline.manifest import FINISHED, MANIFEST, why_outdated
from simgan_captcha.pipeline.progress import StageProgress
from simgan_captcha.pipeline.run import load_run_reader
from simgan_captcha.pipeline.run_data import load_images
from simgan_captcha.pipeline.run_folder import READINGS, RUN, read_diagnosis, read_run
from simgan_captcha.pipeline.stages import final_readings
from simgan_captcha.recognizer.decode import decode, read_probabilities
from simgan_captcha.recognizer.train import count_flops
from simgan_captcha.recognizer.tta import VIEWS, read_views
from tests.commands import COMMAND, kill_when
from tests.small_run import (
    CALIBRATED,
    SCHEME,
    SEED,
    USER,
    batch_json,
    by_content,
    draw_captchas,
    pipeline,
    run_arguments,
    shaded,
    small_config,
    write_challenges,
)

CAPTCHAS = draw_captchas()


def manifests(run: Path) -> dict[str, dict[str, Any]]:
    """By stage, in the order in which they were finished."""
    paths = sorted(run.glob(f"*/{MANIFEST}"), key=lambda path: path.stat().st_mtime_ns)
    return {path.parent.name: json.loads(path.read_text()) for path in paths}


def times(run: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in run.glob(f"*/{MANIFEST}")}


def spent(run: Path, config: RunConfig | None = None, *, readers: int) -> int:
    """Training FLOPs of all stages, with the largest number of captchas that are compared.

    Views of uncertain known images are left out, because their number cannot be planned.
    """
    views = VIEWS * int(manifests(run)["readings"]["result"]["known_read_again"])
    fewer = readers * (COMPARED - len(CAPTCHAS)) - views
    reading = count_flops(recognizer_architecture(config or small_config()), 1, backward=False)
    return sum(int(m["training_flops"]) for m in manifests(run).values()) + fewer * reading


def with_steps_taken(run: Path, *settings: str) -> RunConfig:
    """A configuration that plans the steps which the adaptation of a run has taken.

    A recognizer that is sure of all characters takes a quarter of the steps.
    """
    taken = int(manifests(run)["adapt"]["result"]["steps"])
    return small_config(*settings, f"adaptation.steps={4 * taken}")


class Listener:
    """A progress whose lines can be read."""

    def __init__(self, *, quiet: bool = True) -> None:
        self._lines = io.StringIO()
        self.progress = StageProgress(quiet=quiet, console=Console(file=self._lines, width=1000))

    @property
    def text(self) -> str:
        return self._lines.getvalue()


@pytest.fixture(scope="module")
def challenges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("challenges") / "batches"
    write_challenges(folder, CAPTCHAS)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, challenges: Path) -> Path:
    """A run that nothing interrupted; copy it before changing it."""
    run = tmp_path_factory.mktemp("finished") / "run"
    pipeline(run, challenges)
    return run


@pytest.fixture
def run(tmp_path: Path, finished: Path) -> Path:
    """A copy of the finished run, with its times."""
    return shutil.copytree(finished, tmp_path / "run")


# What a run leaves.


def test_every_stored_image_is_read(finished: Path) -> None:
    readings = load_readings(finished / READINGS)
    assert [r.name for r in readings] == CaptchaStore(finished / "store").in_content_order().names
    assert len({r.name for r in readings}) == len(CAPTCHAS)
    for reading in readings:
        SCHEME.encode(reading.text)  # raises at another length or character
        assert len(reading.character_confidence) == SCHEME.max_length
        product = np.prod(reading.character_confidence)
        assert reading.confidence == pytest.approx(product, rel=1e-5)


def test_every_stage_saves_its_manifest(finished: Path) -> None:
    found = manifests(finished)
    order = [*found]
    flow = ["store", "background", "simulate", "refine", "read", "adapt", "readings"]
    assert [stage for stage in order if stage in flow] == flow
    for stage, manifest in found.items():
        assert manifest["stage"] == stage
        assert manifest["seconds"] >= 0
        assert manifest["versions"]["torch"]
        assert manifest["machine"]
        for earlier, output in manifest["inputs"].items():
            assert found[earlier]["output"] == output
            assert order.index(earlier) < order.index(stage)
        if stage not in ("store", "background"):
            assert manifest["seed"] == SEED
            assert manifest["precision"] == "32-true"
    assert found["store"]["images"] == len(CAPTCHAS)
    # Both readers read drawn captchas and the real ones, the better one the real ones again.
    assert found["readings"]["images"] == 2 * (KNOWN + len(CAPTCHAS)) + len(CAPTCHAS)


def test_training_costs_what_was_planned(finished: Path) -> None:
    assert spent(finished, readers=2) == planned_training_flops(with_steps_taken(finished))


def test_files_for_people(finished: Path) -> None:
    for picture in ("background/background.png", "simulate/sheet.png", "refine/sheet-000008.png"):
        with Image.open(finished / picture) as image:
            image.load()
    for stage, steps in (("refine", 8), ("read", 12), ("adapt", 8)):
        rows = (finished / stage / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(row)["step"] for row in rows] == list(range(1, steps + 1))
    recorded = read_run(finished)
    assert recorded["config"] == small_config().model_dump(mode="json")
    assert recorded["scheme"] == SCHEME.model_dump(mode="json")
    assert (recorded["user"], recorded["seed"], recorded["preset"]) == (USER, SEED, "quick")


def test_the_background_is_the_one_drawn_on(finished: Path) -> None:
    found, drawn = Background.load(finished / "background" / "background.npz"), shaded()
    assert np.abs(found.grey.astype(int) - drawn.grey)[~drawn.line_mask].mean() < 6
    assert (found.line_mask == drawn.line_mask).mean() > 0.9


def test_each_stage_and_its_cost_are_reported(run: Path, challenges: Path) -> None:
    listener = Listener(quiet=False)
    pipeline(run, challenges, "adaptation.steps=4", progress=listener.progress)
    lines = listener.text.splitlines()
    assert lines[0].startswith("planned")
    for stage in ("background", "simulate", "refine", "read"):
        assert any(line.startswith(f"{stage} ") and "done before" in line for line in lines), stage
    assert any(line.startswith("adapt ") and "done before" not in line for line in lines)
    assert lines[-1].startswith("total")
    assert "TFLOP" in lines[-1]
    assert "32-true, 1 threads" in lines[-1]


# Going on with a run.


def test_a_finished_run_is_not_repeated(run: Path, challenges: Path) -> None:
    before, readings = times(run), (run / READINGS).read_bytes()
    pipeline(run, challenges)
    after = times(run)
    assert {stage for stage in before if before[stage] != after[stage]} == {"store"}
    assert (run / READINGS).read_bytes() == readings


@pytest.mark.parametrize(
    ("assignment", "redone"),
    [
        ("adaptation.steps=4", {"adapt", "readings"}),
        ("recognizer.steps=6", {"read", "adapt", "readings"}),
        ("label_check_steps=2", {"refine", "read", "adapt", "readings"}),
        ("scheme.alphabet=abcd", {"simulate", "refine", "read", "adapt", "readings"}),
        ("encoding=binary", {"background", "refine", "read", "adapt", "readings"}),
        ("simulator.nearest=0.1", {"simulate", "refine", "read", "adapt", "readings"}),
        ("threads=2", set()),
        ("download.attempts=1", set()),
    ],
)
def test_only_stages_affected_by_a_change_are_repeated(
    run: Path, challenges: Path, assignment: str, redone: set[str]
) -> None:
    before = times(run)
    pipeline(run, challenges, assignment)
    after = times(run)
    changed = {stage for stage in before if before[stage] != after[stage]}
    assert changed & {*redone, "background", "refine", "read", "adapt", "readings"} == redone


def test_a_changed_run_equals_a_new_run(run: Path, tmp_path: Path, challenges: Path) -> None:
    assert pipeline(run, challenges, "label_check_steps=2") == pipeline(
        tmp_path / "new", challenges, "label_check_steps=2"
    )


@pytest.mark.parametrize(
    ("stage", "assignment", "seed", "why"),
    [
        # Before anything of the earlier run is touched,
        (
            "store",
            "recognizer.steps=13",
            SEED,
            "its settings of recognizer have been changed since",
        ),
        ("store", "adaptation.steps=0", SEED, "its settings of adaptation have been changed"),
        ("store", "workers=0", SEED + 1, "its seed has been changed since"),
        # also where no finished stage holds the setting,
        (
            "store",
            "label_check_steps=2",
            SEED,
            "its settings of label_check_steps have been changed",
        ),
        ("store", "precision=bf16-mixed", SEED, "its settings of precision have been changed"),
        # and when a stage that readings build on is not what it was, or not there.
        ("adapt", "simulator.size=[12, 15]", SEED, "its stage simulate has been started again"),
        ("readings", "adaptation.steps=9", SEED, "its stage adapt has been started again since"),
    ],
)
def test_readings_are_outdated_from_a_change_until_the_run_ends_again(
    run: Path, challenges: Path, stage: str, assignment: str, seed: int, why: str
) -> None:
    class Stopped(StageProgress):
        def stage(self, name: str) -> None:
            if name == stage:
                raise KeyboardInterrupt
            super().stage(name)

    assert why_outdated(run, read_run(run)) is None
    with pytest.raises(KeyboardInterrupt):
        pipeline(run, challenges, assignment, seed=seed, progress=Stopped(quiet=True))
    assert re.match(why, why_outdated(run, read_run(run)) or "none")
    with pytest.raises(RunError, match=why):
        load_run_reader(run)
    # The readings exist. They are current again after the old settings, or at the end of the run.
    assert load_readings(run / READINGS)
    pipeline(run, challenges, assignment, seed=seed)
    assert why_outdated(run, read_run(run)) is None


def test_settings_without_effect_on_readings_do_not_outdate_them(
    run: Path, challenges: Path
) -> None:
    pipeline(run, challenges)
    recorded = read_run(run)
    recorded["config"]["download"]["attempts"] = 9
    recorded["config"]["workers"] = 2
    assert why_outdated(run, recorded) is None


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"outputs": {}, "config": 3}'])
def test_a_damaged_finish_record_outdates_readings_until_the_run_ends_again(
    run: Path, challenges: Path, damage: str
) -> None:
    (run / FINISHED).write_text(damage)
    assert why_outdated(run, read_run(run)) == "it is not finished"
    with pytest.raises(RunError, match="it is not finished; run simgan-captcha run"):
        load_run_reader(run)
    pipeline(run, challenges)
    assert why_outdated(run, read_run(run)) is None


def test_new_captchas_are_used_for_training_and_read(
    run: Path, tmp_path: Path, challenges: Path
) -> None:
    more = shutil.copytree(challenges, tmp_path / "more")
    recorded = json.loads((run / RUN).read_text())
    (run / RUN).write_text(json.dumps({**recorded, "challenges": str(more)}))
    jpeg, _ = draw_captchas(1, seed=8)[0]
    (more / "challenge-9").write_bytes(batch_json([("new", jpeg)]))
    before = times(run)
    readings = pipeline(run, more)
    assert len(readings) == len(CAPTCHAS) + 1
    after = times(run)
    assert all(after[stage] != before[stage] for stage in before)


def test_other_challenges_or_another_user_need_another_folder(
    run: Path, tmp_path: Path, challenges: Path
) -> None:
    before = times(run)
    with pytest.raises(UsageError, match=r"is a run on the images of .*batches, got .*other"):
        pipeline(run, tmp_path / "other")
    write_challenges(tmp_path / "fewer", CAPTCHAS[:-3])
    with pytest.raises(UsageError, match=r"got .*fewer, which lacks 3 of its 240 images"):
        pipeline(run, tmp_path / "fewer")
    with pytest.raises(UsageError, match=rf"is a run on user {USER}, got nobody"):
        pipeline(run, challenges, user="nobody")
    assert times(run) == before


@pytest.mark.parametrize("where", ["the same folder", "a new folder"])
def test_a_run_continues_after_its_images_were_moved(
    run: Path, tmp_path: Path, challenges: Path, where: str
) -> None:
    """The images are moved after the run, or before it was finished. All are in its store."""
    expected = load_readings(run / READINGS)
    shutil.rmtree(run / "readings")
    shutil.copytree(challenges, tmp_path / "before")
    recorded = json.loads((run / RUN).read_text())
    (run / RUN).write_text(json.dumps({**recorded, "challenges": str(tmp_path / "before")}))
    (tmp_path / "before").rename(tmp_path / "after")
    place = tmp_path / ("before" if where == "the same folder" else "after")
    before, listener = times(run), Listener()
    assert pipeline(run, place, progress=listener.progress) == expected
    kept = [stage for stage in before if stage not in ("store", "readings")]
    assert all(times(run)[stage] == before[stage] for stage in kept)
    assert json.loads((run / RUN).read_text())["challenges"] == str(place)
    said = "is no longer there: the run continues with its 240 stored images"
    assert (said in listener.text) == (where == "the same folder")


def test_images_that_are_gone_before_all_were_stored_are_an_error(
    run: Path, tmp_path: Path, challenges: Path
) -> None:
    recorded = json.loads((run / RUN).read_text())
    (run / RUN).write_text(json.dumps({**recorded, "challenges": str(tmp_path / "gone")}))
    (run / "store" / "ingest.json").unlink()
    with pytest.raises(UsageError, match="gone, which does not exist; correct the path"):
        pipeline(run, tmp_path / "gone")
    assert pipeline(run, challenges)


def test_two_seeds_are_two_runs(run: Path, challenges: Path) -> None:
    before = load_readings(run / READINGS)
    assert pipeline(run, challenges, seed=SEED + 1) != before


# The names and the order of images decide nothing.


def test_renaming_and_reordering_changes_no_reading(tmp_path: Path, finished: Path) -> None:
    renamed = tmp_path / "renamed"
    write_challenges(renamed, CAPTCHAS, batches=3, naming=1)
    other = pipeline(tmp_path / "run", renamed)
    expected = by_content(finished, load_readings(finished / READINGS))
    assert by_content(tmp_path / "run", other) == expected
    assert {r.name for r in other}.isdisjoint(r.name for r in load_readings(finished / READINGS))


# Killed runs.


def test_a_run_killed_again_and_again_ends_with_the_same_readings(
    tmp_path: Path, finished: Path, challenges: Path
) -> None:
    run = tmp_path / "run"
    moments = np.random.default_rng()
    kills = 0
    for file, lines in (
        ("refine/metrics.jsonl", int(moments.integers(1, 7))),
        ("read/metrics.jsonl", int(moments.integers(1, 11))),
        ("adapt/metrics.jsonl", int(moments.integers(1, 7))),
    ):
        command = [*COMMAND, *run_arguments(run, challenges)]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
            kill_when(process, run / file, lines)
            assert process.stderr is not None
            assert b"Traceback" not in process.stderr.read()
        assert process.returncode in (-signal.SIGKILL, 0), (file, lines)
        kills += process.returncode == -signal.SIGKILL
    assert kills >= 2  # a machine that stalls the one who kills may let a run end
    readings = pipeline(run, challenges)
    assert readings == load_readings(finished / READINGS)
    for stage, manifest in manifests(finished).items():
        assert manifests(run)[stage]["output"] == manifest["output"], stage
    for stage in ("refine", "read", "adapt"):
        whole = (finished / stage / "metrics.jsonl").read_bytes()
        assert (run / stage / "metrics.jsonl").read_bytes() == whole, stage


def test_an_interrupt_anywhere_loses_nothing(
    tmp_path: Path, finished: Path, challenges: Path
) -> None:
    """As the test above, in one process: stopped at every few steps of every stage."""
    run, stops = tmp_path / "run", 0

    class Stopping(StageProgress):
        def update(self, step: float, total: float, **figures: float | str) -> None:
            nonlocal stops
            self.seen = getattr(self, "seen", 0) + 1
            # Later each time, because the readings start again from the beginning.
            if self.seen == 5 * 2 ** (stops // 8):
                stops += 1
                raise KeyboardInterrupt

    while True:
        try:
            readings = pipeline(run, challenges, progress=Stopping(quiet=True))
            break
        except KeyboardInterrupt:
            assert stops < 100
    assert stops > 5
    assert readings == load_readings(finished / READINGS)


# Calibration.


def test_a_calibrated_run_stopped_anywhere_ends_with_the_same_readings(
    tmp_path: Path, challenges: Path
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    expected = pipeline(whole, challenges, *CALIBRATED)
    config = with_steps_taken(whole, *CALIBRATED)
    assert spent(whole, config, readers=2) == planned_training_flops(config)
    stops = 0

    class Stopping(StageProgress):
        def update(self, step: float, total: float, **figures: float | str) -> None:
            nonlocal stops
            self.seen = getattr(self, "seen", 0) + 1
            if self.seen == 215:  # in the second round
                stops += 1
                raise KeyboardInterrupt

    while True:
        try:
            readings = pipeline(run, challenges, *CALIBRATED, progress=Stopping(quiet=True))
            break
        except KeyboardInterrupt:
            assert stops < 20
    assert stops
    assert readings == expected
    before = times(run)
    pipeline(run, challenges, *CALIBRATED)
    assert {stage for stage, when in times(run).items() if before[stage] != when} == {"store"}


# What does not fit.


def test_a_run_without_refining_or_adapting(tmp_path: Path, challenges: Path) -> None:
    short = ("recognizer.images=raw", "adaptation.steps=0")
    readings = pipeline(tmp_path / "run", challenges, *short)
    assert len(readings) == len(CAPTCHAS)
    found = manifests(tmp_path / "run")
    assert not {"refine", "adapt"} & found.keys()
    assert spent(tmp_path / "run", readers=1) == planned_training_flops(small_config(*short))
    load_run_reader(tmp_path / "run")


def test_discriminators_see_the_features_of_the_label_checker(run: Path, challenges: Path) -> None:
    """A run without the generalist has only the label checker, which knows strokes."""
    pipeline(run, challenges, "simgan.features=2", "simgan.refiner.noise=true")
    rows = (run / "refine" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[-1]).keys() >= {"feature_loss", "feature_discriminator_loss"}
    readings = load_readings(run / READINGS)
    (run / "read" / MANIFEST).unlink()
    (run / "read" / "checkpoint.safetensors").unlink()
    # The noise of refined training images is the same in each run.
    pipeline(run, challenges, "simgan.features=2", "simgan.refiner.noise=true")
    assert load_readings(run / READINGS) == readings


def test_the_original_system_runs_completely(tmp_path: Path, challenges: Path) -> None:
    settings = (
        "encoding=binary",
        "lines=average",
        "generator=original",
        "recognizer.images=refined",
        "adaptation.steps=0",
    )
    assert len(pipeline(tmp_path / "run", challenges, *settings)) == len(CAPTCHAS)
    assert spent(tmp_path / "run", readers=1) == planned_training_flops(small_config(*settings))


def test_invalid_images_and_batches_are_quarantined_and_reported(
    tmp_path: Path, finished: Path, challenges: Path
) -> None:
    hostile = shutil.copytree(challenges, tmp_path / "hostile")
    (hostile / "challenge-7").write_bytes((challenges / "challenge-0").read_bytes()[:5000])
    jpeg = CAPTCHAS[0][0]
    large = io.BytesIO()
    Image.new("RGB", (100, 50)).save(large, "JPEG")
    rotten = [("cut", jpeg[:-200]), ("large", large.getvalue()), ("../../up", b"no image")]
    mixed = json.loads((challenges / "challenge-0").read_bytes())
    mixed["images"] += json.loads(batch_json(rotten))["images"]
    (hostile / "challenge-0").write_text(json.dumps(mixed))
    listener = Listener()
    readings = pipeline(tmp_path / "run", hostile, progress=listener.progress)
    # The rest goes its way, as if those had never been there.
    assert readings == load_readings(finished / READINGS)
    warnings = [line for line in listener.text.splitlines() if line.startswith("warning: ")]
    assert any("1 of 5 batches could not be loaded" in line for line in warnings)
    assert any("3 images were set aside" in line for line in warnings)
    assert manifests(tmp_path / "run")["store"]["result"]["quarantined"] == 3
    assert not (tmp_path / "up").exists()


def test_too_few_captchas_for_one_batch(tmp_path: Path) -> None:
    write_challenges(tmp_path / "few", CAPTCHAS[:7], batches=1)
    with pytest.raises(StoreError, match=r"batch of 8 images, got 7; download more"):
        pipeline(tmp_path / "run", tmp_path / "few")


def test_a_font_without_a_character(tmp_path: Path, challenges: Path) -> None:
    with pytest.raises(ConfigError, match="roboto-black lacks '雪'"):
        pipeline(tmp_path / "run", challenges, "scheme.alphabet=abc雪")


def test_reading_needs_a_finished_run(tmp_path: Path, run: Path) -> None:
    with pytest.raises(RunError, match=r"found no run\.json"):
        load_run_reader(tmp_path / "nothing")
    shutil.rmtree(run / read_diagnosis(run)["kept"])
    with pytest.raises(RunError, match=r"its stage (read|adapt) is not finished; run simgan-capt"):
        load_run_reader(run)


def test_a_run_of_another_version_is_reported(run: Path) -> None:
    # An earlier version had clutter among the simulator's settings.
    for file in (RUN, FINISHED):
        recorded = json.loads((run / file).read_text())
        recorded["config"]["simulator"]["clutter"] = {"lines": [0, 5]}
        (run / file).write_text(json.dumps(recorded))
    with pytest.raises(RunError, match=r"of this version .*clutter.* begin it again"):
        load_run_reader(run)


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"user": "x"}'])
def test_a_damaged_record_is_reported_and_can_be_repaired(
    run: Path, challenges: Path, damage: str
) -> None:
    (run / RUN).write_text(damage)
    with pytest.raises(RunError, match=r"damaged .*delete that file and give"):
        pipeline(run, challenges)
    before = times(run)
    (run / RUN).unlink()
    pipeline(run, challenges)
    assert times(run)["readings"] == before["readings"]


def reread(run: Path, *split_at: int) -> list[Reading]:
    """What the reader that a run kept says of its images, read in parts."""
    reader, background, _ = load_run_reader(run)
    names, images = load_images(CaptchaStore(run / "store"), SCHEME)
    parts = [read_probabilities(reader, background, part) for part in np.split(images, split_at)]
    viewed, _ = read_views(reader, background, images, np.concatenate(parts), SEED)
    return list(decode(SCHEME, names, viewed))


def test_readings_come_from_the_last_recognizer(finished: Path) -> None:
    assert load_run_reader(finished)[2] == small_config()
    assert (finished / "adapt" / "recognizer.safetensors").read_bytes() != (
        finished / "read" / "recognizer.safetensors"
    ).read_bytes()
    assert reread(finished) == load_readings(finished / READINGS)


def test_images_beyond_those_of_the_comparison_are_read(
    run: Path, challenges: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(final_readings, "COMPARED", 100)
    shutil.rmtree(run / "readings")
    assert pipeline(run, challenges) == reread(run, 100)


def test_a_mistyped_address_can_be_corrected_while_nothing_is_stored(
    tmp_path: Path, challenges: Path
) -> None:
    with pytest.raises(SimganCaptchaError):
        pipeline(tmp_path / "run", tmp_path / "mistyped")
    assert pipeline(tmp_path / "run", challenges)


def test_a_file_is_no_run_folder(tmp_path: Path, challenges: Path) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(UsageError, match="is a file; name a folder"):
        pipeline(tmp_path / "file", challenges)
    with pytest.raises(RunError, match="expected a run in"):
        read_run(tmp_path / "file")
