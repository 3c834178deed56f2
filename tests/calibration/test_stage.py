"""Calibration as a stage of a run."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lightning_fabric import Fabric
from PIL import Image

from simgan_captcha.calibration.calibrate import glyph_sheet
from simgan_captcha.data.store import CaptchaStore
from simgan_captcha.errors import RunError
from simgan_captcha.inference.readings import load_readings
from simgan_captcha.pipeline.cost import KNOWN
from simgan_captcha.pipeline.manifest import MANIFEST
from simgan_captcha.pipeline.run_data import RunData
from simgan_captcha.pipeline.run_folder import READINGS, read_diagnosis
from simgan_captcha.pipeline.stages.final_readings import read_captchas
from simgan_captcha.recognizer.decode import load_recognizer
from simgan_captcha.simulator.calibrated import RENDERING, Calibration
from simgan_captcha.simulator.settings import LayoutSettings
from simgan_captcha.simulator.simulator import TRAINING, DrawParameters, Simulator
from tests.calibration.scene import drawing
from tests.drawing import encode_jpeg
from tests.small_run import SCHEME, SEED, pipeline, shaded, small_config, write_challenges

IMAGES, FIRST, STEPS, FONTS = 300, 160, 40, 2
REAL = drawing(size=(19, 19), rotation=(-8, 8), horizontal=(0, 0.2), vertical=(0.4, 0.6))
CALIBRATING = (
    "calibrate=true",
    "calibration.rounds=2",
    f"calibration.first_steps={FIRST}",
    f"calibration.steps={STEPS}",
    "calibration.epochs=10",
    "calibration.rendering_images=100",
    "calibration.rendering_evaluations=20",
    "recognizer.images=raw",
    "adaptation.steps=0",
    "recognizer.batch_size=32",
    "recognizer.channels=[8, 8, 16, 16, 32]",
    "recognizer.ema_decay=0.95",
    "recognizer.learning_rate=0.01",
    "recognizer.steps=30",
    "recognizer.checkpoint_every=100",
    'simulator.fonts=["roboto-black", "dejavu-sans-bold"]',
    "simulator.size=[18, 20]",
    "simulator.horizontal=[-0.3, 0.3]",
    "simulator.vertical=[0.3, 0.7]",
)


@pytest.fixture(scope="module")
def challenges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Captchas with their own font, positions and rotations."""
    images, ids = Simulator(SCHEME, REAL, shaded()).batch(np.random.default_rng(8), IMAGES)
    captchas = [
        (encode_jpeg(image, 90), SCHEME.decode(row))
        for image, row in zip(images, ids.tolist(), strict=True)
    ]
    folder = tmp_path_factory.mktemp("challenges") / "batches"
    write_challenges(folder, captchas)
    return folder


def test_a_run_learns_glyphs_and_poses(
    tmp_path: Path, challenges: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, drawn, draw = tmp_path / "run", list[DrawParameters](), Simulator.draw_parameters
    free: list[float] = []

    def recorded(self: Simulator, generator: np.random.Generator, count: int) -> DrawParameters:
        drawn.append(draw(self, generator, count))
        free.append(self.shares.uncalibrated)
        return drawn[-1]

    monkeypatch.setattr(Simulator, "draw_parameters", recorded)
    pipeline(run, challenges, *CALIBRATING, "calibration.rounds=5")
    folder = run / "calibrate"
    manifest = json.loads((folder / MANIFEST).read_text())
    found = Calibration.load(folder / "calibration.npz")

    assert found.found.all()
    with Image.open(folder / "glyphs.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), glyph_sheet(found.glyphs))

    result = manifest["result"]
    for slot, (low, high) in enumerate([(12, 16.8), (36, 40.8)]):
        (left, _), (right, _) = result["x"][slot]
        assert (left, right) == pytest.approx((low, high), abs=2.5)
    images, slots, _ = found.poses.shape
    assert IMAGES / 2 < images <= IMAGES
    assert slots == SCHEME.max_length
    middles = np.median(found.poses, 0)
    np.testing.assert_allclose(middles[:, :2], [[14.4, 12], [38.4, 12]], atol=1.5)
    assert result["pitch"][0] == pytest.approx(24, abs=1.5)
    assert [end for end, _ in result["y"]] == pytest.approx([9.6, 14.4], abs=2.5)
    assert result["rotation"][0][0] < result["rotation"][1][0]
    assert tuple(result["rendering"]) == RENDERING
    np.testing.assert_allclose(
        [value for value, _ in result["rendering"].values()], found.rendering, atol=0.01
    )
    assert result["rendering_misfit"] > 0
    assert list(result["fonts"]) == list(SCHEME.alphabet)
    assert result["accuracy"] > 0.9

    bootstrap, architecture = load_recognizer(folder / "recognizer.safetensors")
    assert architecture.pose
    assert not bootstrap.training
    losses = []
    for number, steps in ((1, FIRST), (2, STEPS)):
        rows = (folder / f"round-{number}" / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(row)["loss"] for row in rows])
        assert len(rows) == steps
    assert losses[1][0] < 0.5 * losses[0][0]  # training continues from the previous weights
    assert not (folder / "round-3").exists()  # the second reads nearly all with confidence
    # A run judges itself on calibrated images only; training also draws uncalibrated ones.
    (known,) = [parameters for parameters in drawn if len(parameters.ids) == KNOWN]
    assert (known.font == FONTS).all()
    of_batches = [share for share, each in zip(free, drawn, strict=True) if len(each.ids) == 32]
    assert set(of_batches[: FIRST + STEPS]) == {0.3}
    assert set(of_batches[FIRST + STEPS :]) >= {TRAINING.uncalibrated}
    learned_from = [parameters for parameters in drawn if len(parameters.ids) == 32]
    assert len(learned_from) >= FIRST + STEPS + 2
    fonts = np.concatenate([parameters.font for parameters in learned_from[FIRST:]])
    assert (fonts < FONTS).mean() == pytest.approx(0.05, abs=0.02)
    assert manifest["images"] == (FIRST + STEPS) * 32 + 2 * IMAGES
    assert manifest["training_flops"] > 0

    # Drawings decide uncertain characters; with wrong glyphs they are rejected.
    assert "undecided" not in read_diagnosis(run)
    replace(found, glyphs=np.roll(found.glyphs, 1, axis=0)).save(folder / "calibration.npz")
    told: list[str] = []
    fabric = Fabric(accelerator="cpu", devices=1)
    config = small_config(*CALIBRATING)
    read_captchas(
        RunData(run, config, SEED, fabric, told.append), run / "readings", lambda *_: None
    )
    diagnosis = read_diagnosis(run)
    assert "drawings contradict confident readings" in diagnosis["undecided"]
    assert (diagnosis["uncertain"], diagnosis["changed"]) == (0, 0)
    assert diagnosis["undecided"] in diagnosis["warnings"]
    assert told == diagnosis["warnings"]
    assert len(load_readings(run / READINGS)) == IMAGES

    # A scheme may contain more information.
    assert "multiple_fonts" not in diagnosis["undecided"]
    ranges = config.simulator.model_copy(update={"layout": LayoutSettings()})
    laid_out = config.model_copy(update={"simulator": ranges})
    read_captchas(
        RunData(run, laid_out, SEED, fabric, told.append), run / "readings", lambda *_: None
    )
    assert "set multiple_fonts = true in the scheme" in read_diagnosis(run)["undecided"]


def test_too_little_training_stops_a_run_that_continues_uncalibrated(
    tmp_path: Path, challenges: Path
) -> None:
    run = tmp_path / "run"
    little = ("calibration.first_steps=2", "calibration.steps=2")
    with pytest.raises(RunError, match=r"confidence in every slot.*calibration.steps.*=false"):
        pipeline(run, challenges, *CALIBRATING, *little)
    assert not (run / "calibrate" / MANIFEST).exists()
    done = (run / "simulate" / MANIFEST).stat().st_mtime_ns
    readings = pipeline(run, challenges, *CALIBRATING, "calibrate=false")
    assert len(readings) == len(CaptchaStore(run / "store").in_content_order().names)
    assert (run / "simulate" / MANIFEST).stat().st_mtime_ns == done


def test_a_round_with_too_few_readings_trains_longer(
    tmp_path: Path, challenges: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    early = ("calibration.first_steps=2", f"calibration.steps={FIRST}")
    pipeline(run, challenges, *CALIBRATING, *early)
    assert "round 1 of 2 read too little with confidence" in capsys.readouterr().err
    result = json.loads((run / "calibrate" / MANIFEST).read_text())["result"]
    assert result["warnings"][0].startswith("round 1 of 2 read too little")
    assert result["accuracy"] > 0.9
    assert Calibration.load(run / "calibrate" / "calibration.npz").found.all()
