"""A run: from unlabelled images to readings, one stage after another, each in its own folder.

No labels of real images are used. An interrupted run continues where it stopped, and its readings
are the same. Finished stages are skipped.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from simgan_captcha.config.settings import RunConfig
from simgan_captcha.data.background import Background
from simgan_captcha.data.store import CaptchaStore
from simgan_captcha.pipeline.cost import plan_in_words, recognizer_architecture
from simgan_captcha.pipeline.graph import stage_named
from simgan_captcha.pipeline.lesson import TEACH, load_lesson
from simgan_captcha.pipeline.manifest import (
    StageOutcome,
    Stopwatch,
    locked,
    require_whole,
    run_stage,
    write_finished,
    write_manifest,
)
from simgan_captcha.pipeline.progress import OnEvent, Reporter, ignore
from simgan_captcha.pipeline.routes import in_order, left_out
from simgan_captcha.pipeline.run_data import RunData
from simgan_captcha.pipeline.run_folder import (
    BACKGROUND,
    READER,
    READINGS,
    Request,
    finished_config,
    read_diagnosis,
    read_run,
    run_estimate,
)
from simgan_captcha.pipeline.stages.stage import Stage
from simgan_captcha.recognizer.decode import load_recognizer
from simgan_captcha.recognizer.train import CHECKPOINT
from simgan_captcha.training.checkpoint import set_aside_if_damaged
from simgan_captcha.training.parallel import fabric_precision, make_fabric, part, share
from simgan_captcha.types import OnStep


def run_pipeline(run: Path, request: Request, *, progress: OnEvent = ignore) -> Path:
    """Run all stages and return the path of the readings.

    Args:
        run: Folder of the run, created if missing. Finished stages in it are skipped.
        request: Images, configuration and seed.
        progress: Called with each event.

    Raises:
        UsageError: The folder belongs to a run on other challenges.
        SimganCaptchaError: A stage failed; the work so far is kept.
    """
    config, reporter = request.config(), Reporter(progress)
    with locked(run), _threads(config.threads):
        request.record(run)
        fabric = _start(config)
        reporter.say(plan_in_words(config))
        data = RunData(
            run,
            config,
            request.seed,
            fabric,
            reporter.warn,
            reporter.say,
            challenges=request.challenges,
            user=request.user or "",
        )
        stages = _Stages(data, reporter)
        for stage in in_order(config, run):
            if why := left_out(stage, run, config):
                reporter.say(f"{stage.name:<10} left out: {why}")
            else:
                stages.go_through(stage)
        write_finished(run, read_run(run), stages.outputs)
        reporter.say(_estimate_line(run))
        processes = f"{fabric.world_size} processes of " if fabric.world_size > 1 else ""
        reporter.say(
            f"total      {stages.seconds:.0f} s, {stages.training_flops / 1e12:.1f} TFLOP of "
            f"training ({fabric_precision(fabric)}, {processes}{torch.get_num_threads()} threads)"
        )
        fabric.broadcast("")  # to `assist`: no more stages
        part()
    return run / READINGS


def assist(run: Path, request: Request) -> None:
    """Train along with the process that runs the stages.

    Args:
        run: Folder of the run, which all processes see.
        request: The same as `run_pipeline`'s.
    """
    config = request.config()
    with _threads(config.threads):
        fabric = _start(config)
        data = RunData(run, config, request.seed, fabric, lambda _: None)
        while name := fabric.broadcast(""):
            stage_named(name).work().run(data, run / name, lambda *_: None)
        part()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Set the number of torch threads within the block; 0 changes nothing."""
    # With another number of threads, convolutions sum in another order and the last bits differ. No
    # stage is repeated for that.
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count:
            torch.set_num_threads(before)


def _start(config: RunConfig) -> Fabric:
    fabric = make_fabric(_precision(config))
    sizes = [config.recognizer.batch_size]
    if config.adaptation.steps:
        sizes += [config.adaptation.batch_size, config.adaptation.synthetic_batch_size]
    if config.refines:
        sizes.append(config.simgan.batch_size)
    for size in sizes:
        share(fabric, size)  # refuse a bad size now, not when the last stage begins
    return fabric


@contextmanager
def opened(run: Path, progress: OnEvent = ignore) -> Iterator[RunData]:
    """Lock a finished run, to learn more from its images.

    Raises:
        RunError: The run is not finished, has changed since, or is locked by another process.
    """
    with locked(run):
        _, _, config = load_run_reader(run, taught=False)
        reporter = Reporter(progress)
        with _threads(config.threads):
            seed = Request.of_record(read_run(run)).seed
            yield RunData(run, config, seed, _start(config), reporter.warn, reporter.say)


def load_run_reader(run: Path, *, taught: bool = True) -> tuple[nn.Module, Background, RunConfig]:
    """The recognizer that reads a run's captchas, its background and its configuration.

    Args:
        run: Folder of a finished run.
        taught: Whether to use the recognizer taught with labels, if it is better.

    Raises:
        RunError: The run has no finished recognizer, or has changed since.
    """
    # A recognizer and a background of different settings would give wrong readings.
    config = finished_config(run)
    lesson = load_lesson(run) if taught else None
    if lesson and lesson.better:
        folder = run / TEACH
    else:
        folder = run / read_diagnosis(run)["kept"]
        require_whole(folder, READER)
    reader, _ = load_recognizer(folder / READER, recognizer_architecture(config))
    return reader, Background.load(run / BACKGROUND), config


def _estimate_line(run: Path) -> str:
    estimate = run_estimate(run)
    return (
        f"estimate   {estimate.accuracy:.1%} of captchas read right "
        f"({estimate.low:.1%} to {estimate.high:.1%}), estimated without labels"
    )


class _Stages:
    """Runs one stage after another, and adds up their costs."""

    def __init__(self, data: RunData, reporter: Reporter) -> None:
        self.data, self.reporter = data, reporter
        self.outputs: dict[str, str] = {}
        self.seconds = 0.0
        self.training_flops = 0

    def go_through(self, stage: Stage) -> None:
        """Run a stage unless it is finished, and report its cost."""
        self.reporter.stage(stage.name)
        folder = self.data.run / stage.name
        if stage.settings is None:
            stopwatch = Stopwatch(folder)
            outcome = self._work(stage, stopwatch)
            identity = {"inputs": {}, "content": CaptchaStore(folder).content_hash()}
            self._account(write_manifest(folder, identity, stopwatch, outcome), worked=True)
            return
        worked = False

        def work(stopwatch: Stopwatch) -> StageOutcome:
            nonlocal worked
            worked = True
            return self._work(stage, stopwatch)

        self._account(run_stage(folder, self._identity(stage), work), worked)

    def _identity(self, stage: Stage) -> dict[str, Any]:
        config = self.data.config
        assert stage.settings is not None
        identity: dict[str, Any] = {
            "inputs": {
                name: self.outputs[name] for name in stage.inputs(config) if name in self.outputs
            },
            "config": stage.settings(config),
        }
        if stage.seeded:
            precision = fabric_precision(self.data.fabric)
            identity |= {"seed": self.data.seed, "precision": precision}
        return identity

    def _work(self, stage: Stage, stopwatch: Stopwatch) -> StageOutcome:
        if stage.trainings(self.data.config):
            _set_aside_damaged(self.data.run / stage.name, self.reporter.warn)
            self.data.fabric.broadcast(stage.name)  # to `assist`
        return stage.work().run(self.data, self.data.run / stage.name, self._advance(stopwatch))

    def _advance(self, stopwatch: Stopwatch) -> OnStep:
        def advance(step: int, total: int, figures: dict[str, float]) -> None:
            stopwatch.tick()
            self.reporter.step(step, total, figures)

        return advance

    def _account(self, manifest: dict[str, Any], worked: bool) -> None:
        self.outputs[manifest["stage"]] = manifest["output"]
        self.seconds += manifest["seconds"]
        self.training_flops += manifest["training_flops"]
        self.reporter.say(
            f"{manifest['stage']:<10} {'' if worked else 'done before: '}"
            f"{manifest['seconds']:.1f} s, {manifest['images']} images, "
            f"{manifest['training_flops'] / 1e12:.2f} TFLOP"
        )
        if not worked:
            for warning in manifest["result"].get("warnings", []):
                self.reporter.warn(warning)


def _set_aside_damaged(stage: Path, warn: Callable[[str], None]) -> None:
    """Rename damaged checkpoints of a stage, so that their trainings start again."""
    for path in sorted(stage.rglob(CHECKPOINT)):
        if set_aside_if_damaged(path):
            warn(
                f"{path} was damaged and is set aside as {path.name}.damaged: this training begins "
                "again from its start, to the same result; if it happens again, check the disk"
            )


def _precision(config: RunConfig) -> Any:
    if config.precision != "auto":
        return config.precision
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    can = torch.cpu.get_capabilities()
    return "bf16-mixed" if can.get("amx_bf16") or can.get("avx512_bf16") else "32-true"
