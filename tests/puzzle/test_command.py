"""The command that serves the puzzle passes its options to the server."""

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest

from simgan_captcha.puzzle.artwork import Artist
from tests.commands import COMMAND, command
from tests.puzzle.served_puzzle import ServedPuzzle


@contextlib.contextmanager
def served(*options: str | Path) -> Iterator[ServedPuzzle]:
    """Run the command in its own process until the block ends; it must then stop quietly."""
    with subprocess.Popen(
        [*COMMAND, "puzzle", "--port", "0", *map(str, options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            puzzle = ServedPuzzle(process)
            yield puzzle
            assert puzzle.stop(signal.SIGINT) == ""
            assert process.returncode == 0
        finally:
            process.kill()


def test_users_and_font() -> None:
    font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
    with served("--user", "marty", "--user", "doc", "--font", font) as puzzle:
        assert puzzle.url.startswith("http://127.0.0.1:")
        for user in ("marty", "doc"):
            assert puzzle.get(f"/u/{user}/image/a").content == Artist(font).jpeg(user, "a")
        assert puzzle.get("/u/biff/").status_code == 404


def test_a_recording(tmp_path: Path) -> None:
    recorded = [{"images": [{"name": str(i), "jpg_base64": ""}]} for i in range(2)]
    for number, batch in enumerate(recorded):
        (tmp_path / f"challenge-{number}").write_text(json.dumps(batch))
    with served("--replay", tmp_path, "--workers", "2") as puzzle:
        assert [puzzle.get("/u/marty/challenge").json() for _ in range(2)] == recorded


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--host", "203.0.113.7", "cannot listen on 203.0.113.7 port 8000"),
        ("--font", "no.ttf", "cannot open no.ttf .*; give another --font"),
        ("--replay", "nowhere", "cannot list nowhere .*; give another --replay"),
    ],
)
def test_invalid_options_give_one_line(option: str, value: str, said: str) -> None:
    command("puzzle", option, value).error(2, said)


@pytest.mark.parametrize(("option", "value"), [("--workers", "0"), ("--port", "70000")])
def test_a_number_out_of_range_is_refused(option: str, value: str) -> None:
    assert command("puzzle", option, value).code == 2
