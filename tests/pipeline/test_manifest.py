import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simgan_captcha.atomic import core_count, file_hash
from simgan_captcha.errors import RunError
from simgan_captcha.pipeline import manifest as stages
from simgan_captcha.pipeline.manifest import (
    ELAPSED,
    FINISHED,
    IDENTITY,
    MANIFEST,
    StageOutcome,
    Stopwatch,
    locked,
    machine,
    require_whole,
    run_stage,
    versions,
    why_outdated,
    write_finished,
)

ENTRY: dict[str, Any] = {"inputs": {"store": "ab12"}, "config": {"steps": 3, "widths": [1, 2]}}


class Work:
    """Counts how often it is asked, and leaves a file each time."""

    def __init__(self, folder: Path, then: Callable[[], None] = lambda: None) -> None:
        self.folder, self.times, self.then = folder, 0, then

    def __call__(self, stopwatch: Stopwatch) -> StageOutcome:
        self.times += 1
        (self.folder / f"made-{self.times}").touch()
        self.then()
        return StageOutcome((f"made-{self.times}",), {"loss": 0.5}, images=7, training_flops=12)


def test_a_finished_stage_is_skipped(tmp_path: Path) -> None:
    folder = tmp_path / "read"
    work = Work(folder)
    first = run_stage(folder, ENTRY, work)
    changed = (folder / MANIFEST).stat().st_mtime_ns
    assert run_stage(folder, json.loads(json.dumps(ENTRY)), work) == first
    assert work.times == 1
    assert (folder / MANIFEST).stat().st_mtime_ns == changed


def test_the_manifest_is_complete(tmp_path: Path) -> None:
    folder = tmp_path / "read"
    manifest = run_stage(folder, {**ENTRY, "seed": 5, "precision": "32-true"}, Work(folder))
    assert manifest == json.loads((folder / MANIFEST).read_text())
    assert manifest["stage"] == "read"
    assert manifest["inputs"] == {"store": "ab12"}
    assert manifest["config"] == ENTRY["config"]
    assert (manifest["seed"], manifest["precision"]) == (5, "32-true")
    assert (manifest["images"], manifest["training_flops"]) == (7, 12)
    assert manifest["files"] == {"made-1": file_hash(folder / "made-1")}
    assert manifest["result"] == {"loss": 0.5}
    assert 0 <= manifest["seconds"] < 5
    assert 0 <= manifest["cpu_seconds"] < 5
    assert manifest["convolution_gflops"] > 0
    assert manifest["versions"] == versions()
    assert manifest["machine"] == machine()


def test_versions_and_machine() -> None:
    assert versions()["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions()["torch"].startswith("2.")
    assert f"{core_count()} cores" in machine()
    assert core_count() >= 1


@pytest.mark.parametrize(
    "other",
    [
        {**ENTRY, "inputs": {"store": "ab13"}},
        {**ENTRY, "inputs": {}},
        {**ENTRY, "config": {"steps": 4, "widths": [1, 2]}},
        {**ENTRY, "seed": 2},
    ],
)
def test_another_identity_empties_the_folder_and_repeats_the_stage(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    folder = tmp_path / "read"
    run_stage(folder, ENTRY, Work(folder))
    (folder / "checkpoint").write_text("of other settings")
    (folder / "deep").mkdir()
    (folder / "deep" / "file").touch()
    work = Work(folder)
    manifest = run_stage(folder, other, work)
    assert work.times == 1
    assert manifest["inputs"] == other["inputs"]
    assert sorted(path.name for path in folder.iterdir()) == [IDENTITY, "made-1", MANIFEST]


def test_a_failed_stage_is_continued(tmp_path: Path) -> None:
    folder = tmp_path / "read"

    def fail() -> None:
        (folder / "checkpoint").write_text("step 20")
        raise RunError("diverged")

    with pytest.raises(RunError):
        run_stage(folder, ENTRY, Work(folder, fail))
    assert not (folder / MANIFEST).exists()

    def find_checkpoint() -> None:
        assert (folder / "checkpoint").read_text() == "step 20"

    work = Work(folder, find_checkpoint)
    run_stage(folder, ENTRY, work)
    assert work.times == 1


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"stage": '])
def test_a_damaged_manifest_means_unfinished(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "read"
    run_stage(folder, ENTRY, Work(folder))
    (folder / "checkpoint").touch()
    (folder / MANIFEST).write_text(damage)
    work = Work(folder)
    run_stage(folder, ENTRY, work)
    assert work.times == 1
    assert (folder / "checkpoint").exists()


@pytest.mark.parametrize("damage", ["", "{", "[]", "null"])
def test_a_damaged_identity_means_another_one(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "read"
    run_stage(folder, ENTRY, Work(folder))
    (folder / "checkpoint").touch()
    (folder / IDENTITY).write_text(damage)
    work = Work(folder)
    run_stage(folder, ENTRY, work)
    assert work.times == 1
    assert not (folder / "checkpoint").exists()


KILLED_STAGE = f"""
import sys, time
from pathlib import Path
from simgan_captcha.pipeline import manifest as stages
stages.ELAPSED_EVERY = 0.0
def work(stopwatch):
    while True:
        time.sleep(0.01)
        seconds = stopwatch.seconds()
        stopwatch.tick()  # which saves no fewer
        print(seconds, flush=True)
stages.run_stage(Path(sys.argv[1]), {ENTRY!r}, work)
"""


def test_seconds_of_a_killed_process_are_counted_too(tmp_path: Path) -> None:
    folder = tmp_path / "read"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED_STAGE, str(folder)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if float(line) > 0.5:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert not (folder / MANIFEST).exists()
    started = time.monotonic()
    manifest = run_stage(folder, ENTRY, Work(folder))
    own = time.monotonic() - started
    assert 0.5 <= manifest["seconds"] < 0.5 + own + 5


@pytest.mark.parametrize("damage", ["", "null", "[]", "{}", '{"seconds": "long"}'])
def test_a_damaged_stopwatch_starts_at_zero(tmp_path: Path, damage: str) -> None:
    (tmp_path / ELAPSED).write_text(damage)
    assert 0 <= Stopwatch(tmp_path).seconds() < 1
    assert 0 <= Stopwatch(tmp_path).cpu_seconds() < 1


def test_a_stopwatch_saves_every_few_seconds_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopwatch = Stopwatch(tmp_path / "new")
    stopwatch.tick()
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(stages, "ELAPSED_EVERY", 0.0)
    stopwatch.tick()
    assert json.loads((tmp_path / "new" / ELAPSED).read_text())["seconds"] >= 0


def test_cpu_time_is_that_of_all_processes_of_a_stage(tmp_path: Path) -> None:
    (tmp_path / ELAPSED).write_text('{"seconds": 9.0, "cpu_seconds": 7.0}')
    stopwatch = Stopwatch(tmp_path)
    assert 7 <= stopwatch.cpu_seconds() < 8
    assert 9 <= stopwatch.seconds() < 10


HOLD = """
import sys, time
from pathlib import Path
from simgan_captcha.pipeline.manifest import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_at_a_time(tmp_path: Path) -> None:
    run = tmp_path / "new" / "run"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        refused = pytest.raises(
            RunError, match=rf"exclusive access to {run}, another process.*wait.*or choose"
        )
        with refused, locked(run):
            pass
        holder.send_signal(signal.SIGKILL)
    with locked(run):  # what is killed holds nothing
        pass
    with locked(run):  # nor does what has ended
        pass


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match=r"\.lock"), locked(tmp_path):
        raise AssertionError("locked")
    assert (tmp_path / "precious").read_text() == "kept"


def test_an_error_releases_the_lock(tmp_path: Path) -> None:
    def fail() -> None:
        with locked(tmp_path):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"cut")])
def test_a_stage_with_a_missing_or_changed_file_is_repeated(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    folder = tmp_path / "read"
    work = Work(folder)
    run_stage(folder, ENTRY, work)
    damage(folder / "made-1")
    again = run_stage(folder, ENTRY, work)
    assert work.times == 2
    assert again["files"] == {"made-2": file_hash(folder / "made-2")}


def test_later_stages_depend_on_settings_and_files(tmp_path: Path) -> None:
    one = run_stage(tmp_path / "a" / "read", {**ENTRY, "config": 1}, Work(tmp_path / "a" / "read"))
    two = run_stage(tmp_path / "b" / "read", {**ENTRY, "config": 2}, Work(tmp_path / "b" / "read"))
    assert one["files"] == two["files"]
    assert one["output"] != two["output"]


def test_hash_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "one"
    path.write_bytes(b"x" * 100_000)
    assert file_hash(path) == hashlib.sha256(b"x" * 100_000).hexdigest()


ODD: list[Any] = [
    None, 5, "x", [], {}, {"files": []}, {"output": 5}, {"result": 3}, {"stage": "other"},
    {"result": {"warnings": 5}}, {"seconds": "x"}, {"files": {"../identity.json": "x"}},
]  # fmt: skip


@pytest.mark.parametrize("change", [*ODD, "deep", "lacks"])
@pytest.mark.parametrize("name", [MANIFEST, IDENTITY, ELAPSED])
def test_a_stage_with_invalid_json_is_repeated(tmp_path: Path, change: Any, name: str) -> None:
    folder = tmp_path / "read"
    work = Work(folder)
    first = run_stage(folder, ENTRY, work)
    path = folder / name
    kept = json.loads(path.read_text()) if path.exists() else {}
    if change == "deep":
        path.write_text('{"files": ' + "[" * 100_000)
    elif change == "lacks":
        path.write_text(json.dumps({k: v for k, v in kept.items() if k != "output"}))
    else:
        path.write_text(
            json.dumps(kept | change if change and isinstance(change, dict) else change)
        )
    again = run_stage(folder, ENTRY, work)
    assert again.keys() == first.keys()
    assert set(again["files"]) <= {"made-1", "made-2"}
    assert why_outdated(tmp_path, {"seed": 1, "config": {}}) == "it is not finished"


@pytest.mark.parametrize("change", ODD)
def test_an_invalid_finish_record_counts_as_unfinished(tmp_path: Path, change: Any) -> None:
    write_finished(tmp_path, {"seed": 1, "config": {}}, {"read": "x"})
    assert why_outdated(tmp_path, {"seed": 1, "config": {}}) == "its stage read is not finished"
    (tmp_path / FINISHED).write_text(json.dumps(change))
    assert why_outdated(tmp_path, {"seed": 1, "config": {}}) == "it is not finished"


def test_a_file_that_changed_since_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "read"
    run_stage(folder, ENTRY, Work(folder))
    require_whole(folder, "made-1")
    (folder / "made-1").write_text("changed")
    with pytest.raises(RunError, match=r"its made-1 is not as the stage left it; run simgan"):
        require_whole(folder, "made-1")
    (folder / MANIFEST).write_text("{")
    with pytest.raises(RunError, match=r"missing or damaged; run simgan"):
        require_whole(folder, "made-1")
