"""Files are written completely or not at all, on a real disk with real processes."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from simgan_captcha.atomic import write_bytes, write_json


def test_folders_are_made_and_old_content_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    write_bytes(path, b"old, and longer")
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_json_is_readable_by_people(tmp_path: Path) -> None:
    value = {"text": "größe", "steps": [1, 2]}
    write_json(tmp_path / "value.json", value)
    written = (tmp_path / "value.json").read_text(encoding="utf-8")
    assert json.loads(written) == value
    assert "größe" in written
    assert written.endswith("}\n")


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="limits on file sizes are of Unix; run there")
    path = tmp_path / "file"
    write_bytes(path, b"old")
    code = """
import resource, signal, sys
from pathlib import Path
from simgan_captcha.atomic import write_bytes
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_bytes(Path(sys.argv[1]), bytes(100_000))
except OSError as error:
    print("refused", error.errno)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("refused")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_process_killed_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    code = """
import sys
from pathlib import Path
from simgan_captcha.atomic import write_bytes
while True:
    for letter in (b"a", b"b"):
        write_bytes(Path(sys.argv[1]), letter * 1_000_000)
"""
    for wait in (0.0, 0.003, 0.011):
        with subprocess.Popen([sys.executable, "-c", code, str(path)]) as process:
            before = path.stat().st_mtime_ns if path.exists() else 0
            deadline = time.monotonic() + 30
            while not path.exists() or path.stat().st_mtime_ns == before:
                assert time.monotonic() < deadline, "nothing was ever written"
                time.sleep(0.001)
            time.sleep(wait)
            process.send_signal(signal.SIGKILL)
        assert path.read_bytes() in (b"a" * 1_000_000, b"b" * 1_000_000)
