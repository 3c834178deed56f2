"""Runs the command line in this process or a new one, and checks how it ends."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from simgan_captcha.cli import app
from simgan_captcha.config.settings import resolve_config
from simgan_captcha.pipeline.run_folder import record_run

COMMAND = [sys.executable, "-m", "simgan_captcha"]


def recorded(run: Path, challenges: str) -> None:
    """Write the record of a run with user marty and preset quick. Nothing is trained."""
    config = resolve_config("quick").model_dump(mode="json")
    record_run(
        run,
        challenges=challenges,
        user="marty",
        seed=1,
        preset="quick",
        settings=[],
        given_scheme=None,
        scheme=config["scheme"],
        config=config,
    )


class Outcome:
    """The exit code and the output of one command."""

    def __init__(self, code: int | None, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def error(self, code: int, *parts: str) -> None:
        """Assert that it ended with this code and one line on stderr with these parts."""
        assert self.code == code, self.err
        assert "Traceback" not in self.err + self.out
        lines = [line for line in self.err.splitlines() if not line.startswith("warning: ")]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        for part in parts:
            assert re.search(part, lines[0]), lines[0]


def command(*arguments: str | Path, input: str | None = None) -> Outcome:
    """Run a command in this process. ``input`` is its standard input."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=input)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


def real_command(*arguments: str | Path, **options: Any) -> Outcome:
    """Run a command in its own process."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=120, **options
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def processes_with(*words: str) -> list[int]:
    """The running processes whose command has these words. Skips the test without /proc."""
    if not Path("/proc/self/cmdline").exists():
        pytest.skip("no /proc that shows the commands of processes; run on Linux")
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            given = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if all(word.encode() in given for word in words):
            found.append(int(entry.name))
    return found


def kill_when(process: "subprocess.Popen[Any]", path: Path, lines: int) -> None:
    """Kill a process as soon as a file has this many lines, unless the process ends before."""
    deadline = time.monotonic() + 200
    while process.poll() is None:
        assert time.monotonic() < deadline
        if path.exists() and len(path.read_bytes().splitlines()) >= lines:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.0005)
    process.wait()
