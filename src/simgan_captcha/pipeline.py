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
from lightning.fabric import Fabric
from torch import Tensor, nn

from simgan_captcha.atomic import write_bytes, write_json
from simgan_captcha.background import Background, estimate_background
from simgan_captcha.config import RunConfig, load_config
from simgan_captcha.download import IngestReport, ingest
from simgan_captcha.errors import UsageError
from simgan_captcha.images import GreyImages, decode_grey, encode_png
from simgan_captcha.progress import StageProgress
from simgan_captcha.reader.adaptation import adapt_reader
from simgan_captcha.reader.network import ReaderArchitecture
from simgan_captcha.reader.reading import load_reader, read_images, save_reader
from simgan_captcha.reader.training import (
    ReaderResult,
    ReaderSettings,
    count_flops,
    train_reader,
)
from simgan_captcha.readings import save_readings
from simgan_captcha.run_folder import READINGS, read_run, record_run
from simgan_captcha.seed_simulator import SeedSimulator
from simgan_captcha.simgan import Refiner, count_forward_flops, load_refiner, train_refiner
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

# Synthetic streams: no two trainings of a run see the same images.
_WITNESS, _REFINE, _READ, _ADAPT, _SHEET = range(1, 6)

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
) -> Path:
    """All stages of a run; the path of its readings.

    Args:
        run: The run's folder, made if missing; what is finished in it is not done again.
        config: Decides everything but the images.
        challenges: Folder or URL, see `download.ingest`.
        user: Puzzle user whose challenges are asked for.
        seed: Decides every random draw.
        preset: Name of the configuration, for the report.
        progress: What the user sees.

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
            scheme=config.scheme.model_dump(mode="json"),
            config=config.model_dump(mode="json"),
        )
        # Convolutions sum in another order with other thread counts: part of what decides a run.
        threads = config.threads or core_count()
        torch.set_num_threads(threads)
        fabric = Fabric(accelerator="auto", devices=1, precision=_precision(config))
        stages = _Stages(run, config, seed, progress, fabric)

        stages.store(challenges, user)
        stages.stage("background", ["store"], _of(config, "encoding"), stages.background)
        drawing = _of(config, "scheme", "generator", "simulator", "seed_simulator")
        stages.stage("simulate", ["background"], drawing, stages.simulate)
        before_reader = "simulate"
        if config.refine:
            witness = stages.witness_settings().model_dump(mode="json")
            refining = {**_of(config, "simgan"), "witness": witness}
            stages.stage("refine", ["simulate"], refining, stages.refine)
            before_reader = "refine"
        stages.stage("read", [before_reader], _of(config, "reader"), stages.read)
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
        simulator, count = self._simulator(), 500
        started = time.perf_counter()
        images, _ = simulator.batch(np.random.default_rng([_SHEET, self.seed]), count)
        seconds = time.perf_counter() - started
        path = folder / "sheet.png"
        write_bytes(path, encode_png(_sheet(images, rows=8, columns=6)))
        # The picture is made of what later stages build on: background, settings, seed, codec.
        return StageOutcome(
            file_hash(path), {"images_per_second": round(count / seconds)}, images=count
        )

    def refine(self, folder: Path, advance: Advance) -> StageOutcome:
        witness, settings = self._witness(folder / "witness", advance), self.config.simgan
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
            label_agreement=self._agreement(witness.reader),
        )
        return StageOutcome(
            # The reader's training goes on from the witness.
            file_hash(folder / "refiner.safetensors", folder / "witness" / READER),
            {**result.figures, "warnings": list(result.alarms)},
            images=result.images + witness.images,
            training_flops=result.flops + witness.flops,
        )

    def read(self, folder: Path, advance: Advance) -> StageOutcome:
        settings, initial = self.config.reader, None
        refiner: Refiner | None = None
        if self.config.refine:
            initial, _ = load_reader(self.run / "refine" / "witness" / READER)
            if settings.images == "refined":
                refiner = load_refiner(self.run / "refine" / "refiner.safetensors")
                refiner.to(self.fabric.device)
        elif settings.images == "refined":
            raise UsageError("reader.images=refined needs a refiner; set refine=true or images=raw")
        result = train_reader(
            lambda first: self._synthetic(_READ, settings.batch_size, first, refiner),
            self._architecture(),
            settings,
            folder=folder,
            fabric=self.fabric,
            seed=self.seed,
            on_step=advance,
            initial=initial,
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
        names, images = self._names, self._images()
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

    def _simulator(self) -> CaptchaSimulator:
        config = self.config
        if config.generator == "seed":
            return SeedSimulator(config.scheme, config.seed_simulator, self._background())
        return Simulator(config.scheme, config.simulator, self._background())

    def _synthetic(
        self, stream: int, size: int, first: int, refiner: Refiner | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        background = self._background()
        for images, ids in synthetic_batches(
            self._simulator(),
            size,
            self.seed,
            stream=stream,
            first=first,
            workers=self.config.workers,
        ):
            normalised = torch.from_numpy(background.normalise(images))
            if refiner is not None:
                with torch.no_grad(), self.fabric.autocast():
                    refined = refiner(normalised[:, :1].to(self.fabric.device)).float()
                normalised[:, :1] = refined.cpu()
            yield normalised, ids

    def _real(self, size: int, first: int) -> Iterator[Tensor]:
        background = self._background()
        for images in real_batches(self._images(), size, self.seed, first):
            yield torch.from_numpy(background.normalise(images))

    def witness_settings(self) -> ReaderSettings:
        """The reader's, on raw images, for fewer steps."""
        changes = {"steps": self.config.witness_steps, "images": "raw"}
        return self.config.reader.model_copy(update=changes)

    def _witness(self, folder: Path, advance: Advance) -> ReaderResult:
        """A reader of raw images: it tells whether refining keeps the text."""
        settings = self.witness_settings()
        result = train_reader(
            lambda first: self._synthetic(_WITNESS, settings.batch_size, first),
            self._architecture(),
            settings,
            folder=folder,
            fabric=self.fabric,
            seed=self.seed,
            on_step=advance,
        )
        save_reader(folder / READER, result.reader, self._architecture())
        return result

    def _agreement(self, witness: nn.Module) -> Callable[[Tensor, Tensor], float]:
        mask = torch.from_numpy(self._background().normalise(self._images()[:1]))[:, 1:]

        @torch.no_grad()
        def agreement(synthetic: Tensor, refined: Tensor) -> float:
            before, after = (
                witness(torch.cat([ink.cpu().float(), mask.expand(len(ink), -1, -1, -1)], 1))
                for ink in (synthetic, refined)
            )
            same = before.argmax(-1) == after.argmax(-1)
            return float(same.all(-1).float().mean())

        return agreement

    def _size(self) -> tuple[int, int]:
        return self.config.scheme.height, self.config.scheme.width

    def _architecture(self) -> ReaderArchitecture:
        scheme, reader = self.config.scheme, self.config.reader
        return ReaderArchitecture(
            *self._size(), scheme.length, len(scheme.alphabet), reader.kind, reader.channels
        )

    def _save_reader(self, folder: Path, result: ReaderResult, extra_flops: int) -> StageOutcome:
        architecture = self._architecture()
        save_reader(folder / READER, result.reader, architecture)
        multiply_adds = count_flops(architecture, 1, backward=False) / 2
        return StageOutcome(
            file_hash(folder / READER),
            {**result.figures, "reading_mmac": round(multiply_adds / 1e6, 1)},
            images=result.images,
            training_flops=result.flops + extra_flops,
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
