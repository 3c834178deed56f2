"""Ctrl-C where it would do harm: it is meant for the one that a person began, between two steps."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold Ctrl-C back until the block ends, for what must not stop half way.

    Python's own queues are of that kind: a thread that one of them was about to wake may never hear
    of it, and is waited for in vain when all is closed.

    Raises:
        KeyboardInterrupt: When the block ends, if Ctrl-C was pressed meanwhile (or whatever else
            this process does at Ctrl-C).
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or handler is None:
        yield  # Ctrl-C reaches the main thread alone
        return
    pressed = threading.Event()
    signal.signal(signal.SIGINT, lambda number, frame: pressed.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if pressed.is_set():
        signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def kept_from_children() -> Iterator[None]:
    """Hold Ctrl-C back until the block ends, and for good from processes that start in it.

    A terminal's Ctrl-C reaches all processes of its group. A child that is still importing would
    end with a traceback; one that ended by itself would be waited for in vain, or leave its parent
    half built. Children inherit the mask, so only this process stops them. Holds nothing from
    children on Windows.

    Raises:
        KeyboardInterrupt: As `held_back` does.
    """
    with held_back():
        if sys.platform == "win32":
            yield
            return
        # Python's tracker of resources lifts the mask when it starts: so it starts before.
        resource_tracker.ensure_running()
        # The mask holds for this thread alone; another one may take the signal for this process.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
