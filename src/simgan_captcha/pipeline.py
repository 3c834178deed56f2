"""The run: from challenges to readings, one stage after another, each in its own folder.

No label of a real image exists here. A run that was killed goes on where it was, to the same
readings; a finished stage is skipped.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from simgan_captcha.atomic import write_bytes, write_json
from simgan_captcha.background import Background, estimate_background
from simgan_captcha.calibrate import Calibration, calibrate, glyph_sheet
from simgan_captcha.config import RunConfig, load_config
from simgan_captcha.download import IngestReport, ingest
from simgan_captcha.errors import UsageError
from simgan_captcha.images import GreyImages, decode_grey, encode_png
from simgan_captcha.progress import StageProgress
from simgan_captcha.reader.adaptation import adapt_reader, count_adaptation_flops
from simgan_captcha.reader.network import ReaderArchitecture
from simgan_captcha.reader.reading import load_reader, read_images, save_reader
from simgan_captcha.reader.scout import PosedSimulator, scout_images, scout_objective
from simgan_captcha.reader.training import (
    ReaderResult,
    ReaderSettings,
    count_flops,
    train_reader,
)
from simgan_captcha.readings import save_readings
from simgan_captcha.run_folder import READINGS, read_run, record_run
from simgan_captcha.seed_simulator import SeedSimulator
from simgan_captcha.simgan import (
    Refiner,
    count_forward_flops,
    count_training_flops,
    load_refiner,
    train_refiner,
)
from simgan_captcha.simulator import Simulator
from simgan_captcha.stages import (
    StageOutcome,
    Stopwatch,
    core_count,
    file_hash,
    locked,
    run_stage,
    write_manifest,
)
from simgan_captcha.store import CaptchaStore
from simgan_captcha.streams import CaptchaSimulator, real_batches, synthetic_batches

READER = "reader.safetensors"
CALIBRATION = "calibration.npz"
SCOUTED = 6_000
"""Real images that calibration looks at: some hundreds of every character."""

# Synthetic streams: no two trainings of a run see the same images.
_WITNESS, _REFINE, _READ, _ADAPT, _SHEET = range(1, 6)
_SCOUT = 100  # and one more for each round

Advance = Callable[[int, int, dict[str, float]], None]


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
        challenges: Folder or URL, see `download.ingest`.
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
            challenges=challenges,
            user=user,
            seed=seed,
            preset=preset,
            settings=list(settings),
            scheme=config.scheme.model_dump(mode="json"),
            config=config.model_dump(mode="json"),
        )
        # Convolutions sum in another order with other thread counts: part of what decides a run.
        threads = config.threads or core_count()
        torch.set_num_threads(threads)
        fabric = Fabric(accelerator="auto", devices=1, precision=_precision(config))
        progress.say(f"planned    {planned_training_flops(config) / 1e12:.1f} TFLOP of training")
        stages = _Stages(run, config, seed, progress, fabric)

        stages.store(challenges, user)
        stages.stage("background", ["store"], _of(config, "encoding"), stages.background)
        drawing = _of(config, "scheme", "generator", "simulator", "seed_simulator")
        stages.stage("simulate", ["background"], drawing, stages.simulate)
        learned_from = ["simulate"]
        if calibrates(config):
            scout = _brief_settings(config, config.calibration.steps).model_dump(mode="json")
            scouting = {**_of(config, "calibration"), "scout": scout}
            stages.stage("calibrate", ["simulate"], scouting, stages.calibrate)
            learned_from = ["calibrate"]
        if config.refine:
            witness = _brief_settings(config, config.witness_steps).model_dump(mode="json")
            refining = {**_of(config, "simgan"), "witness": witness}
            stages.stage("refine", learned_from, refining, stages.refine)
            learned_from = [*learned_from, "refine"]
        stages.stage("read", learned_from, _of(config, "reader"), stages.read)
        last = "read"
        if config.adaptation.steps:
            stages.stage("adapt", ["read"], _of(config, "adaptation"), stages.adapt)
            last = "adapt"
        stages.stage("readings", [last], {}, stages.readings)
        progress.say(
            f"total      {stages.seconds:.0f} s, {stages.training_flops / 1e12:.1f} TFLOP of "
            f"training ({fabric_precision(fabric)}, {threads} threads)"
        )
    return run / READINGS


def load_run_reader(run: Path) -> tuple[nn.Module, Background, RunConfig]:
    """What reads a run's captchas: its last reader, its background, its configuration.

    Raises:
        RunError: The run has no finished reader.
    """
    config = load_config(read_run(run)["config"])
    reader, _ = load_reader(run / ("adapt" if config.adaptation.steps else "read") / READER)
    return reader, Background.load(run / "background" / "background.npz"), config


def calibrates(config: RunConfig) -> bool:
    """Whether a run has a calibration stage; the seed's generator has nothing to fit."""
    return config.calibrate and config.generator == "fonts"


def planned_training_flops(config: RunConfig) -> int:
    """Floating-point operations that the trainings of a run will take; a multiply-add is two."""
    reader, size = config.reader, (config.scheme.height, config.scheme.width)
    architecture = _architecture(config)
    each = count_flops(architecture, reader.batch_size, backward=True)
    flops = each * reader.steps + count_adaptation_flops(architecture, config.adaptation)
    if calibrates(config):
        scouting = each * config.calibration.steps + _scouting_flops(config, SCOUTED)
        flops += scouting * config.calibration.rounds
    elif config.refine:
        flops += each * config.witness_steps
    if config.refine:
        flops += count_training_flops(config.simgan, *size)
        if reader.images == "refined":
            refining = count_forward_flops(config.simgan.refiner, *size)
            flops += reader.steps * reader.batch_size * refining
    return flops


def load_images(store: CaptchaStore) -> tuple[list[str], GreyImages]:
    """All captchas of a store in content order: names, and (N, H, W) ``uint8``."""
    captchas = store.in_content_order()
    return captchas.names, np.stack([decode_grey(data) for data in captchas.images])


class _Stages:
    """The work of each stage, and what they share; a stage reads what earlier ones left."""

    def __init__(
        self, run: Path, config: RunConfig, seed: int, progress: StageProgress, fabric: Fabric
    ) -> None:
        self.run, self.config, self.seed = run, config, seed
        self.progress, self.fabric = progress, fabric
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
            CaptchaStore(folder).content_hash(),
            {**dataclasses.asdict(report), "warnings": warnings},
            images=report.images_stored,
        )
        self._account(write_manifest(folder, {"inputs": {}}, stopwatch, outcome), worked=True)

    def background(self, folder: Path, advance: Advance) -> StageOutcome:
        background = estimate_background(self._images(), self.config.encoding)
        path = folder / "background.npz"
        background.save(path)
        mask = background.line_mask.astype(np.uint8) * 255
        write_bytes(folder / "background.png", encode_png(np.vstack([background.grey, mask])))
        return StageOutcome(
            file_hash(path),
            {
                "ink_level": background.ink_level,
                "line_share": round(float(background.line_mask.mean()), 4),
            },
            images=len(self._images()),
        )

    def simulate(self, folder: Path, advance: Advance) -> StageOutcome:
        simulator, count = self._simulator(None), 500
        started = time.perf_counter()
        images, _ = simulator.batch(np.random.default_rng([_SHEET, self.seed]), count)
        seconds = time.perf_counter() - started
        path = folder / "sheet.png"
        write_bytes(path, encode_png(_sheet(images, rows=8, columns=6)))
        # The picture is made of what later stages build on: background, settings, seed, codec.
        return StageOutcome(
            file_hash(path), {"images_per_second": round(count / seconds)}, images=count
        )

    def calibrate(self, folder: Path, advance: Advance) -> StageOutcome:
        scout: nn.Module | None = None
        calibration: Calibration | None = None
        flops = images = 0
        for number in range(1, self.config.calibration.rounds + 1):
            result = self._train_scout(folder, number, calibration, scout, advance)
            scout = result.reader
            normalised = self._background().normalise(self._images()[:SCOUTED])
            poses = scout_images(scout, normalised, self.config.scheme)
            calibration = calibrate(normalised, poses, self.seed)
            flops += result.flops + _scouting_flops(self.config, len(normalised))
            images += result.images + len(normalised)
            # The last round's are what counts; earlier ones show how they came about.
            calibration.save(folder / CALIBRATION)
            write_bytes(folder / "glyphs.png", encode_png(glyph_sheet(calibration.glyphs)))
            save_reader(folder / READER, scout, _architecture(self.config, pose=True))
        summary = Calibration.load(folder / CALIBRATION).summary(self.config.scheme.alphabet)
        for warning in summary["warnings"]:
            self.progress.warn(warning)
        return StageOutcome(
            f"{file_hash(folder / CALIBRATION)} {file_hash(folder / READER)}",
            {**result.figures, **summary},
            images=images,
            training_flops=flops,
        )

    def _train_scout(
        self,
        folder: Path,
        number: int,
        calibration: Calibration | None,
        initial: nn.Module | None,
        advance: Advance,
    ) -> ReaderResult:
        """One round's training, on the simulator as the round before calibrated it."""
        config = self.config
        settings = _brief_settings(config, config.calibration.steps)
        simulator = PosedSimulator(
            Simulator(config.scheme, config.simulator, self._background(), calibration)
        )
        return train_reader(
            lambda first: self._batches(simulator, _SCOUT + number, settings.batch_size, first),
            _architecture(config, pose=True),
            settings,
            folder=folder / f"round-{number}",
            fabric=self.fabric,
            seed=self.seed,
            on_step=advance,
            initial=initial,
            objective=scout_objective,
        )

    def refine(self, folder: Path, advance: Advance) -> StageOutcome:
        settings, flops, images = self.config.simgan, 0, 0
        left = [folder / "refiner.safetensors"]
        if not calibrates(self.config):
            witness = self._train_witness(folder / "witness", advance)
            flops, images = witness.flops, witness.images
            left.append(folder / "witness" / READER)  # the reader's training begins with it
        size = settings.batch_size

        def synthetic(first: int) -> Iterator[Tensor]:
            return (images[:, :1] for images, _ in self._synthetic(_REFINE, size, first))

        def real(first: int) -> Iterator[Tensor]:
            return (images[:, :1] for images in self._real(size, first))

        result = train_refiner(
            synthetic=synthetic,
            real=real,
            folder=folder,
            fabric=self.fabric,
            seed=self.seed,
            settings=settings,
            on_step=advance,
            warn=self.progress.warn,
            label_agreement=self._agreement(self._witness()),
        )
        return StageOutcome(
            file_hash(*left),
            {**result.figures, "warnings": list(result.alarms)},
            images=result.images + images,
            training_flops=result.flops + flops,
        )

    def read(self, folder: Path, advance: Advance) -> StageOutcome:
        settings = self.config.reader
        refiner: Refiner | None = None
        if settings.images == "refined":
            if not self.config.refine:
                raise UsageError(
                    "reader.images=refined needs a refiner; set refine=true or reader.images=raw"
                )
            refiner = load_refiner(self.run / "refine" / "refiner.safetensors")
            refiner.to(self.fabric.device)
        begins_trained = settings.kind == "attention" and (
            calibrates(self.config) or self.config.refine
        )
        result = train_reader(
            lambda first: self._synthetic(_READ, settings.batch_size, first, refiner),
            _architecture(self.config),
            settings,
            folder=folder,
            fabric=self.fabric,
            seed=self.seed,
            on_step=advance,
            initial=self._witness() if begins_trained else None,
        )
        refining = (
            0
            if refiner is None
            else result.images * count_forward_flops(refiner.settings, *self._size())
        )
        return self._save_reader(folder, result, refining)

    def adapt(self, folder: Path, advance: Advance) -> StageOutcome:
        settings = self.config.adaptation
        reader, architecture = load_reader(self.run / "read" / READER)
        result = adapt_reader(
            reader,
            architecture,
            lambda first: self._real(settings.batch_size, first),
            lambda first: self._synthetic(_ADAPT, settings.synthetic_batch_size, first),
            settings,
            folder=folder,
            fabric=self.fabric,
            seed=self.seed,
            on_step=advance,
        )
        return self._save_reader(folder, result, 0)

    def readings(self, folder: Path, advance: Advance) -> StageOutcome:
        reader, background, _ = load_run_reader(self.run)
        images = self._images()
        names = self._names
        readings = list(read_images(reader, background, self.config.scheme, names, images, advance))
        save_readings(self.run / READINGS, readings)
        confidence = sum(reading.confidence for reading in readings) / len(readings)
        return StageOutcome(
            file_hash(self.run / READINGS),
            {"mean_confidence": round(confidence, 4)},
            images=len(readings),
        )

    # What stages share.

    def _images(self) -> GreyImages:
        if not hasattr(self, "_loaded"):
            self._names, self._loaded = load_images(CaptchaStore(self.run / "store"))
        return self._loaded

    def _background(self) -> Background:
        return Background.load(self.run / "background" / "background.npz")

    def _simulator(self, calibration: Calibration | None) -> CaptchaSimulator:
        config = self.config
        if config.generator == "seed":
            return SeedSimulator(config.scheme, config.seed_simulator, self._background())
        return Simulator(config.scheme, config.simulator, self._background(), calibration)

    def _synthetic(
        self, stream: int, size: int, first: int, refiner: Refiner | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        calibration = (
            Calibration.load(self.run / "calibrate" / CALIBRATION)
            if calibrates(self.config)
            else None
        )
        for normalised, ids in self._batches(self._simulator(calibration), stream, size, first):
            if refiner is not None:
                with torch.no_grad(), self.fabric.autocast():
                    refined = refiner(normalised[:, :1].to(self.fabric.device)).float()
                normalised[:, :1] = refined.cpu()
            yield normalised, ids

    def _batches(
        self, simulator: CaptchaSimulator, stream: int, size: int, first: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        background = self._background()
        for images, targets in synthetic_batches(
            simulator,
            size,
            self.seed,
            stream=stream,
            first=first,
            workers=self.config.workers,
        ):
            yield torch.from_numpy(background.normalise(images)), targets

    def _real(self, size: int, first: int) -> Iterator[Tensor]:
        background = self._background()
        for images in real_batches(self._images(), size, self.seed, first):
            yield torch.from_numpy(background.normalise(images))

    def _train_witness(self, folder: Path, advance: Advance) -> ReaderResult:
        settings = _brief_settings(self.config, self.config.witness_steps)
        result = train_reader(
            lambda first: self._synthetic(_WITNESS, settings.batch_size, first),
            _architecture(self.config),
            settings,
            folder=folder,
            fabric=self.fabric,
            seed=self.seed,
            on_step=advance,
        )
        save_reader(folder / READER, result.reader, _architecture(self.config))
        return result

    def _witness(self) -> nn.Module:
        """A reader of raw images: it tells whether refining keeps the text."""
        folder = Path("calibrate") if calibrates(self.config) else Path("refine") / "witness"
        return load_reader(self.run / folder / READER)[0]

    def _agreement(self, witness: nn.Module) -> Callable[[Tensor, Tensor], float]:
        mask = torch.from_numpy(self._background().normalise(self._images()[:1]))[:, 1:]
        classes = len(self.config.scheme.alphabet)

        @torch.no_grad()
        def agreement(synthetic: Tensor, refined: Tensor) -> float:
            before, after = (
                witness(torch.cat([ink.cpu().float(), mask.expand(len(ink), -1, -1, -1)], 1))
                for ink in (synthetic, refined)
            )
            same = before[..., :classes].argmax(-1) == after[..., :classes].argmax(-1)
            return float(same.all(-1).float().mean())

        return agreement

    def _size(self) -> tuple[int, int]:
        return self.config.scheme.height, self.config.scheme.width

    def _save_reader(self, folder: Path, result: ReaderResult, extra_flops: int) -> StageOutcome:
        architecture = _architecture(self.config)
        save_reader(folder / READER, result.reader, architecture)
        multiply_adds = count_flops(architecture, 1, backward=False) / 2
        return StageOutcome(
            file_hash(folder / READER),
            {**result.figures, "reading_mmac": round(multiply_adds / 1e6, 1)},
            images=result.images,
            training_flops=result.flops + extra_flops,
        )


def _architecture(config: RunConfig, *, pose: bool = False) -> ReaderArchitecture:
    scheme, reader = config.scheme, config.reader
    return ReaderArchitecture(
        scheme.height,
        scheme.width,
        scheme.length,
        len(scheme.alphabet),
        "attention" if pose else reader.kind,
        reader.channels,
        pose,
    )


def _scouting_flops(config: RunConfig, images: int) -> int:
    return images * count_flops(_architecture(config, pose=True), 1, backward=False)


def _brief_settings(config: RunConfig, steps: int) -> ReaderSettings:
    """The reader's, for a training on raw images of so many steps."""
    return config.reader.model_copy(update={"steps": steps, "images": "raw"})


def _precision(config: RunConfig) -> Any:
    if config.precision != "auto":
        return config.precision
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    return "bf16-mixed" if torch.cpu.get_capabilities().get("amx_bf16") else "32-true"


def fabric_precision(fabric: Fabric) -> str:
    """Fabric's name of the precision it computes in, as ``32-true``."""
    return str(fabric.strategy.precision.precision)


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
