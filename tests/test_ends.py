"""Real processes that are killed or terminated leave no child processes behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import COMMAND, Outcome
from tests.drawing import write_catalogue
from tests.small_run import draw_captchas, run_arguments, write_challenges

PATIENCE = 240.0


def session_of(leader: int) -> list[int]:
    """The running processes in the session of a leader, without the leader.

    Skips the test where /proc is not available.
    """
    if not Path("/proc/self/stat").exists():
        pytest.skip("no /proc that shows the processes of a session; run on Linux")
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(session) == leader and int(entry.name) != leader and state != "Z":
            found.append(int(entry.name))
    return found


def wait_until_gone(leader: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while left := session_of(leader):
        if time.monotonic() > deadline:
            for process in left:
                os.kill(process, signal.SIGKILL)
            raise AssertionError(f"{len(left)} processes were left")
        time.sleep(0.05)


@pytest.fixture(scope="module")
def challenges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "batches"
    write_challenges(folder, draw_captchas())
    return folder


def started(arguments: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def training(tmp_path: Path, challenges: Path) -> Iterator["subprocess.Popen[str]"]:
    """A run that is starting its workers. They may not be ready yet."""
    run = tmp_path / "run"
    arguments = run_arguments(
        run, challenges, "recognizer.steps=100000", "recognizer.images=raw", "workers=2"
    )
    process = started([*COMMAND, *arguments])
    try:
        deadline = time.monotonic() + PATIENCE
        # The resource tracker, the fork server and the workers.
        while len(session_of(process.pid)) < 3:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("seconds", [0.0, 3.0])
def test_a_killed_run_leaves_no_process(training: "subprocess.Popen[str]", seconds: float) -> None:
    time.sleep(seconds)
    training.kill()
    training.wait()
    wait_until_gone(training.pid)


@pytest.mark.parametrize(("seconds", "whole_group"), [(0.0, True), (3.0, False)])
def test_sigterm_is_answered_as_ctrl_c(
    training: "subprocess.Popen[str]", seconds: float, whole_group: bool
) -> None:
    time.sleep(seconds)
    (os.killpg if whole_group else os.kill)(training.pid, signal.SIGTERM)
    out, err = training.communicate(timeout=PATIENCE)
    wait_until_gone(training.pid)
    Outcome(training.returncode, out, err).error(1, "interrupted; run the same command again")


DRAWING = """
import sys
from pathlib import Path
from simgan_captcha.generalist.pretraining.train import PretrainingSettings, _Drawn

if __name__ == "__main__":
    settings = PretrainingSettings(families=2, images=2, batch_size=2, uses=1)
    drawn = _Drawn(settings, Path(sys.argv[1]), workers=2)
    for pool in drawn.pools(0):
        print("drawn", flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_pretraining_that_is_killed_leaves_no_process(tmp_path: Path, how: signal.Signals) -> None:
    script, catalogue = tmp_path / "drawing.py", tmp_path / "fonts.tsv"
    script.write_text(DRAWING)
    write_catalogue(catalogue)
    with started([sys.executable, str(script), str(catalogue)]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "drawn\n", process.communicate()
        assert session_of(process.pid)
        process.send_signal(how)
        process.wait()
        wait_until_gone(process.pid)


def test_head_ends_a_command_quietly(tmp_path: Path) -> None:
    """The output has several hundred kilobytes, more than a pipe holds."""
    text = "import sys; from simgan_captcha.cli import app, main;"
    many = "@app.command()\ndef many() -> None:\n    for _ in range(9999): print('x' * 50)\n"
    for more in ("", "    sys.stdout.write('short')\n"):
        script = tmp_path / "many.py"
        script.write_text(f"{text}\n{many}{more}\nmain()\n")
        with subprocess.Popen(
            [sys.executable, str(script), "many"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() == b""
        assert process.returncode == 1
