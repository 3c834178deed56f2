"""One stage after another in one folder each: manifests, what may be skipped, the run's lock.

The identity of a stage is what decides its output: the hashes of its inputs, its configuration and
the seed. A folder of the same identity is finished if it has a manifest; otherwise the stage
continues there. A folder of another identity is emptied first, because its checkpoints belong to
other work.
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
"""Settings of how a run is made, which no stage's identity holds."""
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
    """What is relied on of a manifest."""

    model_config = ConfigDict(strict=True, extra="allow")

    stage: str
    output: str
    seconds: float
    images: int
    training_flops: int
    files: dict[str, str]
    result: _Result


class _Finished(BaseModel):
    """What is relied on of what `write_finished` wrote."""

    model_config = ConfigDict(strict=True, extra="allow")

    seed: int
    config: dict[str, Any]
    outputs: dict[str, str]


@dataclass(frozen=True)
class StageOutcome:
    """What a stage reports of itself; it goes into the manifest."""

    files: tuple[str, ...]
    """Names, in the stage's folder, of the files that the next stages build on."""
    result: Mapping[str, Any] = field(default_factory=dict)
    """Figures for people, and under ``warnings`` a list of sentences."""
    images: int = 0
    """Images handled, with repeats."""
    training_flops: int = 0
    """Floating-point operations of training; a multiply-add is two."""


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold the run folder for one process.

    Raises:
        RunError: Another process holds it.
        UsageError: There is a file of that name.
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
            f"expected to have {run} alone, another process is running there; "
            "wait for it to end, stop it, or choose another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


class Stopwatch:
    """Seconds a stage has taken, over all the processes that worked on it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / ELAPSED
        try:
            seconds = float(read_object(self._path)["seconds"])
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            seconds = 0.0
        self._before = seconds if math.isfinite(seconds) else 0.0
        self._started = self._saved = time.monotonic()

    def seconds(self) -> float:
        """All of them so far."""
        return self._before + time.monotonic() - self._started

    def tick(self) -> None:
        """Save every few seconds, so that a kill loses no more than those."""
        now = time.monotonic()
        if now - self._saved > ELAPSED_EVERY:
            self._saved = now
            write_json(self._path, {"seconds": self.seconds()})


def run_stage(
    folder: Path,
    identity: Mapping[str, Any],
    work: Callable[[Stopwatch], StageOutcome],
) -> dict[str, Any]:
    """Do a stage's work unless its manifest says that it is done; the manifest.

    Args:
        folder: The stage's own; its name is the stage's name.
        identity: Everything that decides the output: ``inputs`` (hashes of the stages it builds
            on, by their names), ``config``, and where they matter ``seed`` and ``precision``; JSON.
        work: Does it; must go on from what an earlier, killed try left in the folder.
    """
    if _read(folder / IDENTITY) != identity:
        # These first: a kill among the rest must not leave a stage that looks finished.
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
    """Say that a run came to its end: as what, and with which outputs of its stages."""
    settled = {key: recorded[key] for key in ("seed", "config")}
    write_json(run / FINISHED, {**settled, "outputs": dict(outputs)})


def why_outdated(run: Path, recorded: Mapping[str, Any]) -> str | None:
    """Why a run's readings are not those of the run as it is set now; None when they are.

    A run that was changed and has not come to its end again still has its earlier readings.

    Args:
        run: Its folder.
        recorded: What `run_folder.read_run` says of it.
    """
    finished = _read(run / FINISHED, _Finished)
    if finished is None:
        return "it has not come to its end"
    config = finished["config"]
    for stage, output in finished["outputs"].items():
        manifest = _read_manifest(run / Path(stage).name)
        if manifest is None:
            return f"its stage {stage} is not finished"
        if manifest["output"] != output:
            return f"its stage {stage} has been begun anew since"
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
    """See that a file of a finished stage is as the stage left it.

    Args:
        folder: The stage's.
        name: The file's; nothing is said of one that the manifest does not know.

    Raises:
        RunError: The file has changed since, or the stage is not finished.
    """
    if name in _damaged(folder, require_manifest(folder)):
        raise RunError(
            f"expected the finished stage {folder}, its {name} is not as the stage left it; run "
            f"simgan-captcha run {folder.parent}, which makes again what is missing"
        )


def _damaged(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Files of a finished stage that are no longer there as it left them."""
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
    """Say that a stage is done, by what, at what cost; what was written."""
    manifest = {
        "stage": folder.name,
        **identity,
        "versions": versions(),
        "machine": machine(),
        "seconds": round(stopwatch.seconds(), 2),
        "images": outcome.images,
        "training_flops": outcome.training_flops,
        "files": {name: file_hash(folder / name) for name in outcome.files},
        "result": dict(outcome.result),
    }
    # What later stages go by: this stage's inputs and settings, not its files alone.
    decided = json.dumps([identity, manifest["files"]], sort_keys=True)
    manifest["output"] = hashlib.sha256(decided.encode()).hexdigest()
    write_json(folder / MANIFEST, manifest)
    return manifest


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide figures."""
    return {"python": platform.python_version()} | {name: version(name) for name in _VERSIONED}


def machine() -> str:
    """Processor and system, in words."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name}, {core_count()} cores, {sys.platform}"


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    """A stage's manifest; None where there is none, or one that is damaged or of another stage."""
    manifest = _read(folder / MANIFEST, _Manifest)
    return None if manifest is None or manifest["stage"] != folder.name else manifest


def _read(path: Path, shape: type[BaseModel] | None = None) -> dict[str, Any] | None:
    """A JSON object; None where there is none of that shape, whatever is there."""
    try:
        value = read_object(path)
        return value if shape is None else require_shape(value, shape)
    except (OSError, ValueError):
        return None
