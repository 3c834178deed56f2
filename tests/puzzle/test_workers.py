"""One puzzle served by several processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from simgan_captcha.errors import UsageError
from simgan_captcha.puzzle.answers import answer
from simgan_captcha.puzzle.server import serve
from tests.puzzle.served_puzzle import PATIENCE, ServedPuzzle, served_puzzle

WORKERS = 3


def children(pid: int) -> set[int]:
    """Serving child processes of a process; skips the test without /proc."""
    listing = Path(f"/proc/{pid}/task/{pid}/children")
    if not listing.exists():
        pytest.skip("no /proc that shows the children of a process; run on Linux")
    found = {int(child) for child in listing.read_text().split()}
    # The resource tracker of Python is also a child.
    return {c for c in found if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()}


def wait_until_ended(pids: set[int]) -> None:
    deadline = time.monotonic() + PATIENCE
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def replayed(tmp_path: Path) -> Iterator[ServedPuzzle]:
    for number in range(60):
        images = [{"name": str(number), "jpg_base64": ""}]
        (tmp_path / f"challenge-{number}").write_text(json.dumps({"images": images}))
    options = f"workers={WORKERS}, replay=__import__('pathlib').Path({str(tmp_path)!r})"
    # On a busy machine, workers may start more slowly than the timeout for a sign of life.
    with served_puzzle("server.HEALTH_SECONDS = 120", options=options) as puzzle:
        yield puzzle


def test_all_workers_together_serve_each_recorded_batch_once(replayed: ServedPuzzle) -> None:
    def one(_: int) -> str:
        name: str = replayed.get("/u/marty/challenge").json()["images"][0]["name"]
        return name

    with ThreadPoolExecutor(6) as pool:
        dealt = list(pool.map(one, range(60)))
    assert sorted(dealt, key=int) == [str(number) for number in range(60)]
    assert one(0) == "0"
    assert len(children(replayed.process.pid)) == WORKERS


def test_every_worker_gives_the_same_passcode(replayed: ServedPuzzle) -> None:
    names = [f"{i:032x}" for i in range(10_000)]
    body = {"solutions": [{"name": name, "solution": answer("doc", name)} for name in names]}

    def passcode(_: int) -> str:
        reply = httpx.post(f"{replayed.url}/u/doc/solution", json=body, timeout=PATIENCE)
        return str(reply.json()["passcode"])

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(passcode, range(5 * WORKERS)))) == 1


def test_a_killed_worker_is_replaced(replayed: ServedPuzzle) -> None:
    assert replayed.get().status_code == 200
    before = children(replayed.process.pid)
    os.kill(min(before), signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while len(now := children(replayed.process.pid)) < WORKERS or now == before:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert replayed.get().status_code == 200


@pytest.mark.parametrize(
    ("how", "whole_group"),
    [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, False)],
    ids=["Ctrl-C", "SIGINT", "SIGTERM"],
)
def test_a_stop_ends_all_workers_quietly(
    replayed: ServedPuzzle, how: signal.Signals, whole_group: bool
) -> None:
    assert replayed.get().status_code == 200
    workers = children(replayed.process.pid)
    assert replayed.stop(how, whole_group=whole_group) == ""
    assert replayed.process.returncode == 0
    wait_until_ended(workers)


def test_a_stop_while_workers_still_start_is_quiet_too(replayed: ServedPuzzle) -> None:
    def importing(pid: int) -> bool:
        return "pydantic_core" in Path(f"/proc/{pid}/maps").read_text()

    deadline = time.monotonic() + PATIENCE
    while not any(map(importing, children(replayed.process.pid))):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert replayed.stop(signal.SIGINT, whole_group=True) == ""
    assert replayed.process.returncode == 0


def test_workers_end_when_their_parent_is_killed(replayed: ServedPuzzle) -> None:
    assert replayed.get().status_code == 200
    workers = children(replayed.process.pid)
    assert len(workers) == WORKERS
    replayed.process.kill()
    wait_until_ended(workers)
    with pytest.raises(httpx.ConnectError):
        httpx.get(replayed.url)


def test_the_command_serves_with_workers() -> None:
    command = [sys.executable, "-m", "simgan_captcha", "puzzle", "--port", "0", "--workers", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as it:
        puzzle = ServedPuzzle(it)
        assert puzzle.get("/u/marty/random_image").status_code == 200
        assert len(children(it.pid)) == 2
        assert puzzle.stop(signal.SIGINT) == ""
        assert it.returncode == 0


def test_fewer_than_one_worker_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="at least 1 worker, got 0; give another --workers"):
        serve(workers=0)


def test_invalid_options_are_refused_before_workers_start(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give another --font"):
        serve(workers=2, font=tmp_path / "missing.ttf")
