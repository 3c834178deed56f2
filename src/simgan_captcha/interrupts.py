"""How processes end: Ctrl-C between two steps, SIGTERM as Ctrl-C, workers with their parent."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from types import FrameType

KILL = signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL
"""Ends a process at once, whatever it does; nothing of its own code runs any more."""


def end_with_parent(by: signal.Signals = KILL) -> None:
    """End this process as soon as the one that started it is gone, killed or not.

    For the first line of what runs in a worker of multiprocessing, of any start method: it works
    even where the parent is gone already, and where others (a fork server) still live.

    Args:
        by: Signal that ends this process.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()  # until a pipe closes that the parent alone holds open
        os.kill(os.getpid(), by)

    threading.Thread(target=wait, name="end with parent", daemon=True).start()


@contextlib.contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """Answer SIGTERM as Ctrl-C until the block ends; `held_back` then holds it back, too.

    A service manager and a batch queue stop a process so, and it deserves the same tidy end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say how signals are handled
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGINT)

    # A process whose Ctrl-C is ignored (a shell's background job) must still end by SIGTERM.
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    before = signal.signal(signal.SIGTERM, interrupt)
    if ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        # None: it was not Python that had set it.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


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
def kept_from_children(*others: signal.Signals) -> Iterator[None]:
    """Hold Ctrl-C back until the block ends, and for good from processes that start in it.

    A terminal's Ctrl-C reaches all processes of its group. A child that is still importing would
    end with a traceback; one that ended by itself would be waited for in vain, or leave its parent
    half built. Children inherit the mask, so only this process stops them. Holds nothing from
    children on Windows.

    Args:
        others: Further signals, as SIGTERM, which reach a whole group, too. A child that is kept
            from SIGTERM must be one that its parent does not end by it.

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
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *others})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
