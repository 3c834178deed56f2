"""Run the puzzle: in the foreground for a host of contests, or beside a program that plays it."""

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
from simgan_captcha.interrupts import end_with_parent, kept_from_children
from simgan_captcha.puzzle.app import BATCH_SIZE, create_app
from simgan_captcha.puzzle.artwork import Artist
from simgan_captcha.puzzle.replay import Recording, SharedTurns
from simgan_captcha.serving.connection import STOP_SECONDS, PatientProtocol, server_config
from simgan_captcha.serving.listening import listen, url_of

START_SECONDS = 180.0
"""A child that has not started by then is given up."""
HEALTH_SECONDS = 60
"""A worker that gives no sign of life for so long is replaced; one that starts, too."""


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
        host: Address to listen on; the default takes connections of this machine only.
        port: TCP port; 0 for a free one.
        users: Who has a puzzle; None for everybody.
        font: Font of the captchas; None for Lato Black.
        replay: Folder of recorded batches to serve instead of drawing.
        batch_size: Images in a challenge.
        passcode_key: Secret from which passcodes are made; None for a random one, so that passcodes
            of another start differ.
        workers: Processes that serve, from 1. With more than one a script must call this under
            ``if __name__ == "__main__"``, as each process imports it.
        announce: Called once with the server's URL, when it takes connections.
        stop_at_end_of: A stream whose end, too, stops the server.

    Raises:
        UsageError: The address cannot be listened on; the font or the folder is unfit.
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
    # Built here first in any case: what is unfit is said once, before any process starts.
    app = puzzle.app()
    config = server_config(
        app if workers == 1 else puzzle.worker_app,
        _PuzzleProtocol,
        factory=workers > 1,
        workers=workers,
        timeout_worker_healthcheck=HEALTH_SECONDS,
    )
    # Ctrl-C is how a person stops the server, not a failure.
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
    """What a process needs to know to serve; it is handed to every worker."""

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
        """In a worker, which would outlive a parent that was killed, and keep the port."""
        end_with_parent(by=signal.SIGTERM)
        return self.app()


@contextlib.contextmanager
def _interrupts_kept_from_workers(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C calls stop here, and reaches no process that starts meanwhile."""

    def wait_for_interrupt() -> None:
        signal.sigwait({signal.SIGINT})
        stop()

    with kept_from_children():
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
    """A puzzle server on loopback in a process of its own; gives its URL, stops it in the end.

    Port 0 takes a free one.

    The child ignores the terminal's Ctrl-C, so that this process can finish with it, and stops by
    itself when this process is gone, even killed: it watches a pipe that then closes.

    Raises:
        UsageError: The font or the folder is unfit.
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
    """The first line of the child: its URL, or why there is none."""
    patience = threading.Timer(START_SECONDS, child.kill)
    patience.daemon = True
    patience.start()
    line = output.readline().decode().strip()
    patience.cancel()
    if not line:
        raise SimganCaptchaError(
            f"expected the puzzle server to start within {START_SECONDS:.0f} s, it ended; "
            "its own message stands above"
        )
    report: dict[str, str] = json.loads(line)
    if "error" in report:
        raise UsageError(report["error"])
    return report["url"]


def _serve_as_child(options: dict[str, Any]) -> int:
    """Serve as `running_puzzle` asks, one line of JSON on stdout; returns the exit code."""
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
