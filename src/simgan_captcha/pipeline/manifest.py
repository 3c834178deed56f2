"""Manifests of stages, the decision to skip a finished stage, and the lock of a run.

Each stage has one folder. The identity of a stage is everything that determines its output: the
hashes of its inputs, its configuration and the seed. A folder of the same identity is finished if
it has a manifest; otherwise the stage continues there. A folder of another identity is emptied
first, because its checkpoints belong to other work.
"""

import hashlib
import json
import math
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from simgan_captcha.atomic import core_count, file_hash, write_json
from simgan_captcha.documents import read_object, require_shape
from simgan_captcha.errors import RunError, UsageError

MANIFEST = "manifest.json"
IDENTITY = "identity.json"
ELAPSED = "elapsed.json"
FINISHED = "finished.json"
ELAPSED_EVERY = 5.0

_DECIDE_NOTHING = ("download", "threads", "workers")
"""Settings that do not change the output, and are part of no identity."""
_VERSIONED = (
    "simgan-captcha",
    "torch",
    "lightning-fabric",
    "numpy",
    "opencv-python-headless",
    "pillow",
)


class _Result(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    warnings: list[str] = []


class _Manifest(BaseModel):
    """Required keys of a manifest."""

    model_config = ConfigDict(strict=True, extra="allow")

    stage: str
    output: str
    seconds: float
    images: int
    training_flops: int
    files: dict[str, str]
    result: _Result


class _Finished(BaseModel):
    """Required keys of the file that `write_finished` writes."""

    model_config = ConfigDict(strict=True, extra="allow")

    seed: int
    config: dict[str, Any]
    outputs: dict[str, str]


@dataclass(frozen=True)
class StageOutcome:
    """The result of a stage, for its manifest."""

    files: tuple[str, ...]
    """Names of the files in the stage's folder that later stages use."""
    result: Mapping[str, Any] = field(default_factory=dict)
    """Figures for people, and a list of sentences under ``warnings``."""
    images: int = 0
    """Number of processed images, with repetitions."""
    training_flops: int = 0
    """Floating-point operations of training; a multiply-add counts as two."""


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Lock the run folder for this process.

    Raises:
        RunError: Another process has locked it.
        UsageError: The path is a file.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"expected a folder for the run, {run} is a file; name a folder") from None
    from filelock import FileLock, Timeout  # imported late because reading does without it

    lock = FileLock(run / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(
            f"expected exclusive access to {run}, another process is running there; "
            "wait for it to end, stop it, or choose another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


class Stopwatch:
    """Wall and CPU time of a stage, summed over interrupted and resumed processes.

    The CPU time is that of the training process. It leaves out processes that draw images.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / ELAPSED
        self._before = _seconds_in(self._path, "seconds")
        self._cpu_before = _seconds_in(self._path, "cpu_seconds")
        self._started = self._saved = time.monotonic()
        self._cpu_started = time.process_time()

    def seconds(self) -> float:
        """Seconds so far."""
        return self._before + time.monotonic() - self._started

    def cpu_seconds(self) -> float:
        """Seconds of CPU so far."""
        return self._cpu_before + time.process_time() - self._cpu_started

    def tick(self) -> None:
        """Save the time every few seconds, so that a kill loses no more than that."""
        now = time.monotonic()
        if now - self._saved > ELAPSED_EVERY:
            self._saved = now
            times = {"seconds": self.seconds(), "cpu_seconds": self.cpu_seconds()}
            write_json(self._path, times)


def _seconds_in(path: Path, key: str) -> float:
    """A time in the file of a stopwatch; 0 if it is missing or damaged."""
    try:
        seconds = float(read_object(path)[key])
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return 0.0
    return seconds if math.isfinite(seconds) else 0.0


def run_stage(
    folder: Path,
    identity: Mapping[str, Any],
    work: Callable[[Stopwatch], StageOutcome],
) -> dict[str, Any]:
    """Run a stage unless its manifest shows that it is finished.

    Args:
        folder: Folder of the stage; its name is the name of the stage.
        identity: Everything that determines the output, as JSON: ``inputs`` (hashes of earlier
            stages by name), ``config``, and ``seed`` and ``precision`` if they matter.
        work: Runs the stage. It must continue from the files that a killed process left there.

    Returns:
        The manifest.
    """
    if _read(folder / IDENTITY) != identity:
        # Remove these first: a kill in between must not leave a stage that looks finished.
        (folder / MANIFEST).unlink(missing_ok=True)
        (folder / IDENTITY).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(folder / IDENTITY, identity)
    manifest = _read_manifest(folder)
    if manifest is not None and not _damaged(folder, manifest):
        return manifest
    stopwatch = Stopwatch(folder)
    return write_manifest(folder, identity, stopwatch, work(stopwatch))


def write_finished(run: Path, recorded: Mapping[str, Any], outputs: Mapping[str, str]) -> None:
    """Record that a run is finished, with its seed, configuration and the outputs of its stages."""
    settled = {key: recorded[key] for key in ("seed", "config")}
    write_json(run / FINISHED, {**settled, "outputs": dict(outputs)})


def why_outdated(run: Path, recorded: Mapping[str, Any]) -> str | None:
    """The reason why the readings of a run are outdated; None if they are up to date.

    A run that was changed and has not been finished again still has its earlier readings.

    Args:
        run: Folder of the run.
        recorded: Its record, see `run_folder.read_run`.
    """
    finished = _read(run / FINISHED, _Finished)
    if finished is None:
        return "it is not finished"
    config = finished["config"]
    for stage, output in finished["outputs"].items():
        manifest = _read_manifest(run / Path(stage).name)
        if manifest is None:
            return f"its stage {stage} is not finished"
        if manifest["output"] != output:
            return f"its stage {stage} has been started again since"
    if finished["seed"] != recorded["seed"]:
        return "its seed has been changed since"
    for key, value in recorded["config"].items():
        if key not in _DECIDE_NOTHING and config.get(key) != value:
            return f"its settings of {key} have been changed since"
    return None


def require_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished stage.

    Raises:
        RunError: The stage is not finished.
    """
    manifest = _read_manifest(folder)
    if manifest is None:
        raise RunError(
            f"expected the finished stage {folder}, its {MANIFEST} is missing or damaged; run "
            f"simgan-captcha run {folder.parent}, which makes again what is missing"
        )
    return manifest


def require_whole(folder: Path, name: str) -> None:
    """Check that a file of a finished stage has not changed.

    Args:
        folder: Folder of the stage.
        name: Name of the file. A file that is not in the manifest is not checked.

    Raises:
        RunError: The file has changed since, or the stage is not finished.
    """
    if name in _damaged(folder, require_manifest(folder)):
        raise RunError(
            f"expected the finished stage {folder}, its {name} is not as the stage left it; run "
            f"simgan-captcha run {folder.parent}, which makes again what is missing"
        )


def _damaged(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Files of a finished stage that are missing or have changed."""
    return [
        name
        for name, digest in manifest["files"].items()
        if ".." in Path(name).parts
        or Path(name).is_absolute()
        or not (folder / name).is_file()
        or file_hash(folder / name) != digest
    ]


def write_manifest(
    folder: Path, identity: Mapping[str, Any], stopwatch: Stopwatch, outcome: StageOutcome
) -> dict[str, Any]:
    """Write the manifest of a finished stage, and return it."""
    from simgan_captcha.training.roofline import convolution_rate  # needs torch

    manifest = {
        "stage": folder.name,
        **identity,
        "versions": versions(),
        "machine": machine(),
        "seconds": round(stopwatch.seconds(), 2),
        "cpu_seconds": round(stopwatch.cpu_seconds(), 2),
        "convolution_gflops": round(convolution_rate() / 1e9, 1),
        "images": outcome.images,
        "training_flops": outcome.training_flops,
        "files": {name: file_hash(folder / name) for name in outcome.files},
        "result": dict(outcome.result),
    }
    # Later stages depend on the inputs and settings of this stage, not only on its files.
    decided = json.dumps([identity, manifest["files"]], sort_keys=True)
    manifest["output"] = hashlib.sha256(decided.encode()).hexdigest()
    write_json(folder / MANIFEST, manifest)
    return manifest


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect the results."""
    return {"python": platform.python_version()} | {name: version(name) for name in _VERSIONED}


def machine() -> str:
    """Processor, number of cores and system."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name}, {core_count()} cores, {sys.platform}"


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a stage; None if it is missing, damaged or of another stage."""
    manifest = _read(folder / MANIFEST, _Manifest)
    return None if manifest is None or manifest["stage"] != folder.name else manifest


def _read(path: Path, shape: type[BaseModel] | None = None) -> dict[str, Any] | None:
    """A JSON object of the given shape; None if the file does not hold one."""
    try:
        value = read_object(path)
        return value if shape is None else require_shape(value, shape)
    except (OSError, ValueError):
        return None
