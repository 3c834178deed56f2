"""Ctrl-C where processes start: it is meant for the one that a person began."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker


@contextlib.contextmanager
def kept_from_children() -> Iterator[None]:
    """Hold Ctrl-C back until the block ends, and for good from processes that start in it.

    A terminal's Ctrl-C reaches all processes of its group. A child that is still importing would
    end with a traceback; one that ended by itself would be waited for in vain, or leave its parent
    half built. Children inherit the mask, so only this process stops them. Does nothing on Windows.

    Raises:
        KeyboardInterrupt: When the block ends, if Ctrl-C was pressed meanwhile (or whatever else
            this process does at Ctrl-C).
    """
    if sys.platform == "win32":
        yield
        return
    # Python's tracker of resources lifts the mask when it starts: so it starts before.
    resource_tracker.ensure_running()
    pressed = threading.Event()
    handler = signal.getsignal(signal.SIGINT)
    # The mask holds for this thread alone; another one may take the signal, for this one to handle.
    handles = threading.current_thread() is threading.main_thread() and handler is not None
    if handles:
        signal.signal(signal.SIGINT, lambda number, frame: pressed.set())
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if handles:
            signal.signal(signal.SIGINT, handler)
    if pressed.is_set():
        signal.raise_signal(signal.SIGINT)
