"""Questions in a real pseudo-terminal, at tiny size."""

import json
import os
import pty
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from simgan_captcha.pipeline.lesson import LABELS, LESSON, load_lesson
from tests.commands import COMMAND
from tests.small_run import PRETRAINED, draw_captchas, pipeline, write_challenges

PATIENCE = 300.0
CTRL_C = "\x03"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    write_challenges(folder / "batches", draw_captchas(60))
    pipeline(folder / "run", folder / "batches", *PRETRAINED)
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


class Terminal:
    """A command in a pseudo-terminal, with the text that it has shown."""

    def __init__(self, *arguments: str | Path) -> None:
        self._ours, theirs = pty.openpty()
        self._process = subprocess.Popen(
            ["setsid", "--ctty", *COMMAND, *map(str, arguments)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"},
        )
        os.close(theirs)
        self.shown = ""
        self._seen = 0

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def wait_for(self, pattern: str) -> str:
        """The first match of a pattern after the last one."""
        deadline = time.monotonic() + PATIENCE
        while not (found := re.compile(pattern).search(self.shown, self._seen)):
            assert time.monotonic() < deadline, self.shown
            assert self._receive(), self.shown
        self._seen = found.end()
        return found[0]

    def end(self) -> int:
        while self._receive():
            pass
        return self._process.wait(PATIENCE)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)

    def _receive(self) -> bool:
        """Read what the command shows, without colours; False at its end."""
        if select.select([self._ours], [], [], 1.0)[0]:
            try:
                received = os.read(self._ours, 1 << 16)
            except OSError:  # Linux reports the end so
                return False
            plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", received.decode("utf-8", "replace"))
            self.shown += plain
        return True


@pytest.fixture
def terminal(run: Path) -> Iterator[Terminal]:
    terminal = Terminal("teach", run, "--ask", "12")
    yield terminal
    terminal.close()


def answer(terminal: Terminal, first: int, last: int) -> None:
    for number in range(first, last + 1):
        terminal.wait_for(rf"\n{number} of 12 \(.+asked\.png\) \[\w\w\]: ")
        terminal.type("\n")


def kept(run: Path) -> int:
    return len(json.loads((run / LABELS).read_text())["texts"])


def test_the_gain_is_stated_after_ten_answers_and_the_rest_is_taught(
    run: Path, terminal: Terminal
) -> None:
    terminal.wait_for("12 images to label")
    answer(terminal, 1, 10)
    terminal.wait_for("10 labels: one training estimates what they gain")
    share = r"\d+\.\d%"
    gain = rf"\ngain {{8}}10 labels: from {share} to {share} of captchas read right as estimated\n"
    terminal.wait_for(gain)
    assert not (run / LESSON).exists()
    answer(terminal, 11, 11)
    terminal.wait_for(r"\n12 of 12 .+: ")
    terminal.type(".\n")
    terminal.wait_for(r"\nvalidated   \d+ of 11 right")
    terminal.wait_for(rf"\nbefore      {share} of captchas read right as estimated")
    terminal.wait_for(rf"\nafter       {share} of captchas read right as estimated")
    assert terminal.end() == 0
    lesson = load_lesson(run)
    assert lesson is not None
    assert lesson.labels == kept(run) == 11


def test_the_estimate_can_be_left_out_and_the_lesson_stopped(run: Path, terminal: Terminal) -> None:
    answer(terminal, 1, 10)
    terminal.wait_for("one training estimates what they gain")
    terminal.type(CTRL_C)
    terminal.wait_for(r"\ngain {8}not estimated; the answers are kept\n")
    answer(terminal, 11, 11)
    terminal.wait_for(r"\n12 of 12 .+: ")
    terminal.type(CTRL_C)  # ends the questions
    terminal.wait_for("fold 1")
    terminal.type(CTRL_C)
    terminal.wait_for("error: interrupted")
    assert terminal.end() == 1
    assert "Traceback" not in terminal.shown
    assert kept(run) == 11
    assert not (run / LESSON).exists()
