"""Runs the puzzle server, in the foreground or as a child of a program that uses it."""

import contextlib
import json
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from simgan_captcha.errors import SimganCaptchaError, UsageError
from simgan_captcha.interrupts import block_sigint_in_children, end_with_parent
from simgan_captcha.puzzle.app import BATCH_SIZE, create_app
from simgan_captcha.puzzle.artwork import Artist
from simgan_captcha.puzzle.replay import Recording, SharedTurns
from simgan_captcha.serving.connection import STOP_SECONDS, PatientProtocol, server_config
from simgan_captcha.serving.listening import listen, url_of

START_SECONDS = 180.0
"""Timeout for the start of a child process."""
HEALTH_SECONDS = 60
"""A worker that does not respond for this time is replaced, even while it starts."""


def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    users: Collection[str] | None = None,
    font: Path | None = None,
    replay: Path | None = None,
    batch_size: int = BATCH_SIZE,
    passcode_key: bytes | None = None,
    workers: int = 1,
    announce: Callable[[str], None] = print,
    stop_at_end_of: IO[bytes] | None = None,
) -> None:
    """Serve the puzzle until Ctrl-C or SIGTERM; requests in progress are finished first.

    Args:
        host: Address to listen on; by default, only this machine can connect.
        port: TCP port; 0 for a free one.
        users: Users that have a puzzle; None for all names.
        font: Font of the captchas; None for Lato Black.
        replay: Folder of recorded batches to serve instead of drawing.
        batch_size: Number of images in a challenge.
        passcode_key: Secret key of the passcodes. None for a random key; the passcodes then change
            with every start.
        workers: Number of worker processes, at least 1. With more than one, a script must call this
            under ``if __name__ == "__main__"``, because each process imports the script.
        announce: Called once with the URL, when the server accepts connections.
        stop_at_end_of: A stream whose end also stops the server.

    Raises:
        UsageError: The server cannot listen on the address, or cannot use the font or the folder.
    """
    if workers < 1:
        raise UsageError(f"expected at least 1 worker, got {workers}; give another --workers")
    puzzle = _Puzzle(
        font=font,
        replay=replay,
        turns=SharedTurns() if workers > 1 else None,
        passcode_key=passcode_key or secrets.token_bytes(32),
        users=None if users is None else frozenset(users),
        batch_size=batch_size,
    )
    # Built here in any case, so that errors are reported once, before workers start.
    app = puzzle.app()
    config = server_config(
        app if workers == 1 else puzzle.worker_app,
        _PuzzleProtocol,
        factory=workers > 1,
        workers=workers,
        timeout_worker_healthcheck=HEALTH_SECONDS,
    )
    # Ctrl-C is the normal way to stop the server.
    with (
        listen(host, port) as listener,
        contextlib.suppress(KeyboardInterrupt),
        contextlib.ExitStack() as stack,
    ):
        if workers == 1:
            server = uvicorn.Server(config)
            run = partial(server.run, [listener])
            stop = partial(setattr, server, "should_exit", True)
        else:
            supervisor = Multiprocess(config, [listener])
            run, stop = partial(supervisor.run), partial(supervisor.should_exit.set)
            if sys.platform != "win32":
                stack.enter_context(_interrupts_kept_from_workers(stop))
        if stop_at_end_of is not None:
            threading.Thread(target=_stop_at_end, args=(stop, stop_at_end_of), daemon=True).start()
        announce(url_of(listener))
        run()


class _PuzzleProtocol(PatientProtocol):
    def refusal(self, status: int, detail: str) -> tuple[str, dict[str, object]]:
        title = {400: "Bad request", 408: "Too slow"}[status]
        return "application/json", {"error": title, "message": detail}


@dataclass(frozen=True, kw_only=True)
class _Puzzle:
    """Settings of the puzzle, which every worker receives."""

    font: Path | None
    replay: Path | None
    turns: SharedTurns | None
    passcode_key: bytes
    users: frozenset[str] | None
    batch_size: int

    def app(self) -> FastAPI:
        return create_app(
            artist=Artist(self.font),
            passcode_key=self.passcode_key,
            users=self.users,
            batch_size=self.batch_size,
            recording=None if self.replay is None else Recording(self.replay, self.turns),
        )

    def worker_app(self) -> FastAPI:
        """The application of a worker, which ends with its parent and so releases the port."""
        end_with_parent(by=signal.SIGTERM)
        return self.app()


@contextlib.contextmanager
def _interrupts_kept_from_workers(stop: Callable[[], None]) -> Iterator[None]:
    """Within the block, Ctrl-C calls ``stop`` and does not reach new child processes."""

    def wait_for_interrupt() -> None:
        signal.sigwait({signal.SIGINT})
        stop()

    with block_sigint_in_children():
        threading.Thread(target=wait_for_interrupt, daemon=True).start()
        yield


@contextlib.contextmanager
def running_puzzle(
    *,
    users: Collection[str] | None = None,
    font: Path | None = None,
    replay: Path | None = None,
    batch_size: int = BATCH_SIZE,
    port: int = 0,
) -> Iterator[str]:
    """Run a puzzle server on loopback in a child process, and give its URL.

    Port 0 selects a free port. The server stops at the end of the block.

    The child ignores Ctrl-C, so that this process can still use it. It watches a pipe and stops if
    this process ends or is killed.

    Raises:
        UsageError: The server cannot use the font or the folder.
        SimganCaptchaError: The server did not start.
    """
    options = {
        "users": None if users is None else sorted(users),
        "font": None if font is None else str(font.absolute()),
        "replay": None if replay is None else str(replay.absolute()),
        "batch_size": batch_size,
        "port": port,
    }
    with subprocess.Popen(
        [sys.executable, "-m", "simgan_captcha.puzzle.server", json.dumps(options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            yield _await_url(child, child.stdout)
        finally:
            child.stdin.close()
            try:
                child.wait(2 * STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()


def _await_url(child: subprocess.Popen[bytes], output: IO[bytes]) -> str:
    """Read the first line of the child: its URL or an error."""
    patience = threading.Timer(START_SECONDS, child.kill)
    patience.daemon = True
    patience.start()
    line = output.readline().decode().strip()
    patience.cancel()
    if not line:
        raise SimganCaptchaError(
            f"expected the puzzle server to start within {START_SECONDS:.0f} s, it ended; "
            "see its message above"
        )
    report: dict[str, str] = json.loads(line)
    if "error" in report:
        raise UsageError(report["error"])
    return report["url"]


def _serve_as_child(options: dict[str, Any]) -> int:
    """Serve for `running_puzzle`, with one line of JSON on stdout; return the exit code."""
    try:
        serve(
            users=options["users"],
            font=options["font"] and Path(options["font"]),
            replay=options["replay"] and Path(options["replay"]),
            batch_size=options["batch_size"],
            port=options["port"],
            announce=lambda url: print(json.dumps({"url": url}), flush=True),
            stop_at_end_of=sys.stdin.buffer,
        )
    except UsageError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return error.exit_code
    return 0


def _stop_at_end(stop: Callable[[], None], stream: IO[bytes]) -> None:
    stream.read()
    stop()


if __name__ == "__main__":
    sys.exit(_serve_as_child(json.loads(sys.argv[1])))
