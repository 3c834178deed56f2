"""A complete run in seconds: 240 captchas of two characters, 48x24 pixels."""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from simgan_captcha.config.settings import RunConfig, resolve_config
from simgan_captcha.data.background import Background
from simgan_captcha.data.store import CaptchaStore
from simgan_captcha.inference.readings import Reading, load_readings
from simgan_captcha.pipeline.progress import StageProgress
from simgan_captcha.pipeline.run import run_pipeline
from simgan_captcha.pipeline.run_folder import Request
from simgan_captcha.scheme import Scheme
from simgan_captcha.simulator.settings import SimulatorSettings
from simgan_captcha.simulator.simulator import Simulator
from tests.drawing import encode_jpeg

SCHEME = Scheme(alphabet="abc1", length=2, width=48, height=24)
PRESET, USER, SEED = "quick", "someone", 3
ASSIGNMENTS = (
    "scheme.alphabet=abc1",
    "scheme.length=2",
    "scheme.width=48",
    "scheme.height=24",
    'simulator.fonts=["roboto-black"]',
    "simulator.size=[12, 14]",
    "pretrained=false",
    "calibrate=false",
    "label_check_steps=4",
    'simgan.refiner={"features": 4, "blocks": 1, "downscale": 2}',
    "simgan.discriminator.widths=[4, 4, 4, 4]",
    "simgan.batch_size=8",
    "simgan.steps=6",
    "simgan.pretrain_discriminator_steps=2",
    "simgan.history_capacity=16",
    "simgan.picture_every=3",
    "simgan.checkpoint_every=2",
    "recognizer.images=refined",
    "recognizer.channels=[4, 4, 4, 4, 8]",
    "recognizer.batch_size=8",
    "recognizer.steps=12",
    "recognizer.checkpoint_every=3",
    "adaptation.batch_size=8",
    "adaptation.synthetic_batch_size=8",
    "adaptation.steps=8",
    "adaptation.max_steps_factor=1",
    "adaptation.checkpoint_every=2",
    "precision=32-true",
    "threads=1",
    "workers=0",
)
PRETRAINED = (
    "pretrained=true",
    "recognizer.images=raw",
    "specialization.images=24",
    "specialization.steps=2",
    "specialization.batch_size=4",
    "distillation.rounds=2",
    "distillation.fewest_steps=6",
    "distillation.steps_a_class=0",
    "distillation.batch_size=8",
    "distillation.enough=0",
)
"""Additions to `ASSIGNMENTS`: a run that starts with the generalist and needs no simulator."""
CALIBRATED = (
    "calibrate=true",
    "recognizer.images=raw",
    "adaptation.steps=2",
    "calibration.images=240",
    "calibration.rounds=2",
    "calibration.first_steps=180",
    "calibration.steps=60",
    "calibration.epochs=6",
    "calibration.rendering_images=50",
    "calibration.rendering_evaluations=20",
    "recognizer.batch_size=32",
    "recognizer.learning_rate=0.01",
    "recognizer.channels=[8, 8, 8, 8, 16]",
    "recognizer.checkpoint_every=20",
    "recognizer.ema_decay=0.9",
    'simulator.fonts=["caladea-bold"]',
    "simulator.size=[13, 14]",
    "simulator.rotation=[-5, 5]",
    "simulator.horizontal=[0, 0.1]",
    "simulator.vertical=[0.4, 0.6]",
)
"""Additions to `ASSIGNMENTS`: a small run with calibration."""


def small_config(*assignments: str) -> RunConfig:
    return resolve_config(PRESET, [*ASSIGNMENTS, *assignments])


def shaded() -> Background:
    """A background that is shaded from left to right, with a white line across."""
    grey = np.tile(np.linspace(70, 120, SCHEME.width, dtype=np.uint8), (SCHEME.height, 1))
    mask = np.zeros_like(grey, np.bool_)
    mask[15:17, 5:40] = True
    grey[mask] = 250
    return Background(grey, mask, 250.0)


def draw_captchas(count: int = 240, seed: int = 7) -> list[tuple[bytes, str]]:
    """JPEG files and their texts."""
    settings = SimulatorSettings(fonts=("caladea-bold",), size=(13, 14), jpeg_quality=(95, 95))
    images, ids = Simulator(SCHEME, settings, shaded()).batch(np.random.default_rng(seed), count)
    return [
        (encode_jpeg(image, 50), SCHEME.decode(row))
        for image, row in zip(images, ids.tolist(), strict=True)
    ]


def batch_json(named: Sequence[tuple[str, bytes]]) -> bytes:
    """A challenge batch in the format of the puzzle."""
    images = [{"name": n, "jpg_base64": base64.b64encode(data).decode()} for n, data in named]
    return json.dumps({"images": images}).encode()


def write_challenges(
    folder: Path, captchas: Sequence[tuple[bytes, str]], *, batches: int = 4, naming: int = 0
) -> dict[str, str]:
    """Write batch files with random names in random order. Return the true texts by name."""
    random = np.random.default_rng([naming, 99])
    order = random.permutation(len(captchas))
    names = [random.bytes(16).hex() for _ in captchas]
    folder.mkdir(parents=True)
    for n, part in enumerate(np.array_split(order, batches)):
        named = [(names[k], captchas[k][0]) for k in part]
        (folder / f"challenge-{n}").write_bytes(batch_json(named))
    return {names[k]: captchas[k][1] for k in order}


def pipeline(
    run: Path,
    challenges: Path,
    *assignments: str,
    user: str = USER,
    seed: int = SEED,
    progress: StageProgress | None = None,
) -> list[Reading]:
    """Start or continue a run. Return its readings."""
    request = Request(str(challenges), user, PRESET, seed, settings=(*ASSIGNMENTS, *assignments))
    return load_readings(run_pipeline(run, request, progress=progress or StageProgress(quiet=True)))


def run_arguments(run: Path, challenges: Path | str, *assignments: str) -> list[str]:
    """The command-line arguments that are equivalent to `pipeline`."""
    settings = [f"--set={assignment}" for assignment in (*ASSIGNMENTS, *assignments)]
    where = ["run", str(run), "--challenges", str(challenges), "--user", USER]
    return [*where, "--preset", PRESET, "--seed", str(SEED), "--quiet", *settings]


def by_content(run: Path, readings: Sequence[Reading]) -> dict[str, Reading]:
    """Readings by the SHA-256 of their images, with empty names."""
    captchas = CaptchaStore(run / "store").in_content_order()
    sha256 = {
        name: hashlib.sha256(image).hexdigest()
        for name, image in zip(captchas.names, captchas.images, strict=True)
    }
    return {
        sha256[r.name]: Reading("", r.text, r.confidence, r.character_confidence) for r in readings
    }
