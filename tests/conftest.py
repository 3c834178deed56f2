"""Fixtures for tests of several modules: the real captchas of the puzzle, and a server."""

import fcntl
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from simgan_captcha import HACKMIT_2017
from simgan_captcha.data.batch import parse_batch, unpack_batch
from simgan_captcha.data.images import decode_grey
from simgan_captcha.types import GreyImages
from tests.data.misbehaving_server import MisbehavingServer

# A background job of a shell ignores Ctrl-C, and the processes that a test starts would inherit
# this. They do not inherit a handler of our own, but start with the default.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# On shared cores an example can take a long time.
settings.register_profile(
    "shared cores", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("shared cores")

_ROOT = Path(__file__).parents[1]
_REAL_BATCHES = Path(__file__).parents[2] / "shared/data/hackmit2017/challenges"


@pytest.fixture(scope="session")
def real_batches() -> Path:
    """The folder of the 20 challenge batches. Tests that need it are skipped without it."""
    if not _REAL_BATCHES.is_dir():
        pytest.skip(f"no real captchas; to test with them, put batches into {_REAL_BATCHES}")
    return _REAL_BATCHES


@pytest.fixture(scope="session")
def real_images(real_batches: Path) -> GreyImages:
    """1,000 real captchas, (1000, 50, 100) ``uint8``."""
    entries = parse_batch((real_batches / "challenge-0").read_bytes())
    captchas, rejected, _ = unpack_batch(entries, HACKMIT_2017)
    assert not rejected
    images = np.stack([decode_grey(captcha.image) for captcha in captchas])
    images.setflags(write=False)
    return images


@pytest.fixture
def server() -> Iterator[MisbehavingServer]:
    """A server that misbehaves as requested. See `tests.data.misbehaving_server`."""
    with MisbehavingServer() as running:
        yield running


@pytest.fixture(scope="session")
def site(testrun_uid: str) -> Path:
    """The folder of the documentation site, which one of the test processes builds."""
    script, built = _ROOT / "docs" / "write_site.py", _ROOT / "build" / "site-of-tests"
    built.parent.mkdir(exist_ok=True)
    with built.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the other processes wait until it is complete
        file.seek(0)
        if file.read() != testrun_uid:
            done = subprocess.run(
                [sys.executable, script], capture_output=True, text=True, timeout=300
            )
            assert done.returncode == 0, done.stdout + done.stderr
            file.truncate(0)
            file.write(testrun_uid)
    return _ROOT / "build" / "site"
