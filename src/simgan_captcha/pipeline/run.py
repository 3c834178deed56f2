"""The run: from challenges to readings, one stage after another, each in its own folder.

No label of a real image exists here. A run that was killed goes on where it was, to the same
readings; a finished stage is skipped.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from simgan_captcha.atomic import core_count, write_bytes, write_json
from simgan_captcha.config.settings import RunConfig, load_config
from simgan_captcha.data.addresses import without_password
from simgan_captcha.data.background import Background, estimate_background, plain_background
from simgan_captcha.data.foreground import INK
from simgan_captcha.data.images import encode_png
from simgan_captcha.data.ingest import IngestReport, ingest
from simgan_captcha.data.store import CaptchaStore
from simgan_captcha.errors import ConfigError, RunError
from simgan_captcha.pipeline.cost import (
    brief_settings,
    calibrates,
    plan_in_words,
    reader_architecture,
    verifies,
)
from simgan_captcha.pipeline.final_readings import read_captchas
from simgan_captcha.pipeline.learning import READER, Advance, Learning
from simgan_captcha.pipeline.manifest import (
    StageOutcome,
    Stopwatch,
    locked,
    require_whole,
    run_stage,
    why_outdated,
    write_finished,
    write_manifest,
)
from simgan_captcha.pipeline.mending import set_aside_damaged
from simgan_captcha.pipeline.progress import StageProgress
from simgan_captcha.pipeline.run_folder import (
    DIAGNOSIS,
    READINGS,
    read_diagnosis,
    read_run,
    record_run,
)
from simgan_captcha.recognizer.decode import load_reader
from simgan_captcha.shown import without_home
from simgan_captcha.training.parallel import local_processes, make_fabric, part, share
from simgan_captcha.types import GreyImages

_SHEET_STREAM = 5
_TRAINING = ("calibrate", "refine", "read", "adapt")


def run_pipeline(
    run: Path,
    config: RunConfig,
    *,
    challenges: str,
    user: str,
    seed: int,
    preset: str,
    progress: StageProgress,
    settings: Sequence[str] = (),
) -> Path:
    """All stages of a run; the path of its readings.

    Args:
        run: The run's folder, made if missing; what is finished in it is not done again.
        config: Decides everything but the images.
        challenges: Folder or URL, see `data.ingest.ingest`.
        user: Puzzle user whose challenges are asked for.
        seed: Decides every random draw.
        preset: Name of the configuration, to be recorded.
        progress: What the user sees.
        settings: What changed the preset, to be recorded.

    Raises:
        UsageError: The folder belongs to a run on other challenges.
        SimganCaptchaError: A stage could not be done; what was done stays.
    """
    with locked(run):
        record_run(
            run,
            challenges=without_home(without_password(challenges)),
            user=user,
            seed=seed,
            preset=preset,
            settings=list(settings),
            scheme=config.scheme.model_dump(mode="json"),
            config=config.model_dump(mode="json"),
        )
        threads, fabric = _start(config)
        progress.say(plan_in_words(config))
        stages = _Stages(run, config, seed, progress, fabric)
        learning = stages.learning

        stages.store(challenges, user)
        stages.stage(
            "background",
            ["store"],
            _of(config, "encoding", "lines", "removed_lines") | _decoding(config),
            stages.background,
        )
        drawing = _of(config, "scheme", "generator", "simulator", "original_simulator")
        stages.stage("simulate", ["background"], drawing, stages.simulate)
        learned_from = ["simulate"]
        if calibrates(config):
            scout = brief_settings(config, config.calibration.steps).model_dump(mode="json")
            scouting = {**_of(config, "calibration"), "scout": scout}
            stages.stage("calibrate", ["simulate"], scouting, learning.calibrate)
            learned_from = ["calibrate"]
        if config.refine:
            refining = _of(config, "simgan")
            if not calibrates(config):
                witness = brief_settings(config, config.witness_steps).model_dump(mode="json")
                refining["witness"] = witness
            stages.stage("refine", learned_from, refining, learning.refine)
            if config.reader.images == "refined" or not calibrates(config):
                learned_from = [*learned_from, "refine"]
        stages.stage("read", learned_from, _of(config, "reader"), learning.read)
        last = "read"
        if config.adaptation.steps:
            stages.stage("adapt", ["read"], _of(config, "adaptation"), learning.adapt)
            last = "adapt"
        reading = ["read", last] if last != "read" else [last]
        deciding = ["calibrate"] if verifies(config) else []
        stages.stage(
            "readings",
            [*deciding, *reading],
            _of(config, "verification"),
            lambda _, advance: read_captchas(learning, advance),
        )
        write_finished(run, read_run(run), stages.outputs)
        progress.say(_estimate_line(run))
        progress.say(
            f"total      {stages.seconds:.0f} s, {stages.training_flops / 1e12:.1f} TFLOP of "
            f"training ({fabric_precision(fabric)}, {_processes(fabric)}{threads} threads)"
        )
        fabric.broadcast("")  # to `assist`: no more stages
        part()
    return run / READINGS


def assist(run: Path, config: RunConfig, *, seed: int) -> None:
    """What a process does of a run that another one leads: train along, stage by stage.

    Args:
        run: The run's folder, which all processes see.
        config: As `run_pipeline`'s.
        seed: As `run_pipeline`'s.
    """
    _, fabric = _start(config)
    learning = Learning(run, config, seed, fabric, lambda _: None)
    works: dict[str, Callable[[Path, Advance], object]] = {
        "calibrate": learning.assist_calibration,
        "refine": learning.refine,
        "read": learning.read,
        "adapt": learning.adapt,
    }
    while stage := fabric.broadcast(""):
        works[stage](run / stage, lambda *_: None)
    part()


def _start(config: RunConfig) -> tuple[int, Fabric]:
    """Threads of this process, and Fabric."""
    # Convolutions sum in another order with other thread counts, so figures' last bits differ;
    # no stage is done again for that.
    threads = config.threads or max(1, core_count() // local_processes())
    torch.set_num_threads(threads)
    # Its line on precision says what our own lines say.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = make_fabric(_precision(config))
    sizes = [config.reader.batch_size]
    if config.adaptation.steps:
        sizes += [config.adaptation.batch_size, config.adaptation.synthetic_batch_size]
    if config.refine:
        sizes.append(config.simgan.batch_size)
    for size in sizes:
        share(fabric, size)  # refused now, not when the last stage begins
    return threads, fabric


def _processes(fabric: Fabric) -> str:
    return f"{fabric.world_size} processes of " if fabric.world_size > 1 else ""


def load_run_reader(run: Path) -> tuple[nn.Module, Background, RunConfig]:
    """What reads a run's captchas: the reader it kept, its background, its configuration.

    Raises:
        RunError: The run has no finished reader, or has been changed since.
    """
    recorded = read_run(run)
    # A reader and a background of different settings would read, and wrongly.
    if (run / DIAGNOSIS).exists() and (why := why_outdated(run, recorded)):
        raise RunError(
            f"expected a finished run in {run}: {why}; run simgan-captcha run {run} to its end"
        )
    try:
        config = load_config(recorded["config"])
    except ConfigError as error:
        raise RunError(
            f"expected a run of this version in {run}, its settings are of another one ({error}); "
            "begin it again in another folder"
        ) from None
    folder = run / read_diagnosis(run)["kept"]
    require_whole(folder, READER)
    reader, _ = load_reader(folder / READER, reader_architecture(config))
    return reader, Background.load(run / "background" / "background.npz"), config


def _estimate_line(run: Path) -> str:
    diagnosis = read_diagnosis(run)
    estimate = diagnosis["estimates"][diagnosis["kept"]]
    return (
        f"estimate   {estimate['accuracy']:.1%} of captchas read right "
        f"({estimate['low']:.1%} to {estimate['high']:.1%}), told without a label"
    )


class _Stages:
    """One stage after another, what each cost, and the work of those that learn nothing."""

    def __init__(
        self, run: Path, config: RunConfig, seed: int, progress: StageProgress, fabric: Fabric
    ) -> None:
        self.run, self.config, self.seed = run, config, seed
        self.progress, self.fabric = progress, fabric
        self.learning = Learning(run, config, seed, fabric, progress.warn)
        self.outputs: dict[str, str] = {}
        self.seconds = 0.0
        self.training_flops = 0

    def stage(
        self,
        name: str,
        after: Sequence[str],
        config: dict[str, Any],
        work: Callable[[Path, Advance], StageOutcome],
    ) -> None:
        """Do one stage, or find it done; tell the user what it cost."""
        self.progress.stage(name)
        worked = False

        def timed(stopwatch: Stopwatch) -> StageOutcome:
            nonlocal worked
            worked = True
            if name in _TRAINING:
                set_aside_damaged(self.run / name, self.progress.warn)
                self.fabric.broadcast(name)  # to `assist`
            return work(self.run / name, self._advance(stopwatch))

        identity: dict[str, Any] = {
            "inputs": {earlier: self.outputs[earlier] for earlier in after},
            "config": config,
        }
        if name != "background":
            identity |= {"seed": self.seed, "precision": fabric_precision(self.fabric)}
        self._account(run_stage(self.run / name, identity, timed), worked)

    def _advance(self, stopwatch: Stopwatch) -> Advance:
        def advance(step: int, total: int, figures: dict[str, float]) -> None:
            stopwatch.tick()
            self.progress.update(step, total, **figures)

        return advance

    def _account(self, manifest: dict[str, Any], worked: bool) -> None:
        self.outputs[manifest["stage"]] = manifest["output"]
        self.seconds += manifest["seconds"]
        self.training_flops += manifest["training_flops"]
        self.progress.say(
            f"{manifest['stage']:<10} {'' if worked else 'done before: '}"
            f"{manifest['seconds']:.1f} s, {manifest['images']} images, "
            f"{manifest['training_flops'] / 1e12:.2f} TFLOP"
        )
        if not worked:
            for warning in manifest["result"].get("warnings", []):
                self.progress.warn(warning)

    # Stages, in the order of the flow.

    def store(self, challenges: str, user: str) -> None:
        """Bring in what is missing. Nothing that was downloaded is ever emptied or fetched again,
        so this stage has no identity and is gone through at every start."""
        folder = self.run / "store"
        self.progress.stage("store")
        stopwatch = Stopwatch(folder)
        advance = self._advance(stopwatch)
        report = ingest(
            challenges,
            folder,
            scheme=self.config.scheme,
            user=user,
            batches=self.config.batches,
            settings=self.config.download,
            on_progress=lambda done, total, images: advance(done, total, {"images": images}),
        )
        write_json(folder / "ingest.json", dataclasses.asdict(report))
        warnings = _ingest_warnings(report)
        for warning in warnings:
            self.progress.warn(warning)
        outcome = StageOutcome(
            (), {**dataclasses.asdict(report), "warnings": warnings}, images=report.images_stored
        )
        identity = {"inputs": {}, "content": CaptchaStore(folder).content_hash()}
        self._account(write_manifest(folder, identity, stopwatch, outcome), worked=True)

    def background(self, folder: Path, advance: Advance) -> StageOutcome:
        config, scheme = self.config, self.config.scheme
        if scheme.shares_picture:
            background = estimate_background(
                self.learning.images(), config.encoding, config.lines, config.removed_lines
            )
        else:
            background = plain_background(
                scheme.height, scheme.width, INK, config.encoding, config.removed_lines
            )
        background.save(folder / "background.npz")
        write_bytes(folder / "background.png", encode_png(background.grey))
        return StageOutcome(
            ("background.npz",),
            {
                "ink_level": background.ink_level,
                "line_share": round(float(background.line_mask.mean()), 4),
            },
            images=len(self.learning.images()),
        )

    def simulate(self, folder: Path, advance: Advance) -> StageOutcome:
        simulator, count = self.learning.simulator(), 500
        started = time.perf_counter()
        images, _ = simulator.batch(np.random.default_rng([_SHEET_STREAM, self.seed]), count)
        seconds = time.perf_counter() - started
        write_bytes(folder / "sheet.png", encode_png(_sheet(images, rows=8, columns=6)))
        return StageOutcome(
            ("sheet.png",), {"images_per_second": round(count / seconds)}, images=count
        )


def _precision(config: RunConfig) -> Any:
    if config.precision != "auto":
        return config.precision
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    return "bf16-mixed" if torch.cpu.get_capabilities().get("amx_bf16") else "32-true"


def fabric_precision(fabric: Fabric) -> str:
    """Fabric's name of the precision it computes in, as ``32-true``."""
    return str(fabric.strategy.precision.precision)


def _decoding(config: RunConfig) -> dict[str, Any]:
    """What decides how stored images are decoded; nothing where all share a picture and a size."""
    scheme = config.scheme
    size = {"width": scheme.width, "height": scheme.height}
    return {} if scheme.shares_picture else {scheme.background: size}


def _of(config: RunConfig, *keys: str) -> dict[str, Any]:
    return config.model_dump(mode="json", include=set(keys))


def _sheet(images: GreyImages, *, rows: int, columns: int) -> GreyImages:
    """A picture of the first images, two pixels apart."""
    framed = np.pad(images[: rows * columns], ((0, 0), (1, 1), (1, 1)), constant_values=0)
    lines = [np.hstack(list(framed[row * columns : (row + 1) * columns])) for row in range(rows)]
    return np.asarray(cv2.resize(np.vstack(lines), None, fx=2, fy=2), np.uint8)


def _ingest_warnings(report: IngestReport) -> list[str]:
    warnings = []
    if report.batches_failed:
        warnings.append(
            f"{report.batches_failed} of {report.batches_expected} batches could not be had, "
            f"first: {report.failures[0]}; run again to try them again"
        )
    if report.quarantined:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in report.reasons.items())
        warnings.append(f"{report.quarantined} images were set aside: {reasons}")
    return warnings
