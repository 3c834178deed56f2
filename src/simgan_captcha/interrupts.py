"""Controlled process ends: delayed Ctrl-C, SIGTERM as Ctrl-C, workers that end with the parent."""

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
"""Signal that ends a process immediately. None of its own code runs afterwards."""


def end_with_parent(by: signal.Signals = KILL) -> None:
    """End this process as soon as its parent has ended, for any reason.

    A multiprocessing worker of any start method calls this function first. The function also works
    if the parent has already ended, and if other processes, such as a fork server, are still
    running.

    Args:
        by: Signal that ends this process.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()  # waits for the end of a pipe that only the parent keeps open
        os.kill(os.getpid(), by)

    threading.Thread(target=wait, name="end with parent", daemon=True).start()


def end_with_input() -> None:
    """End this process as soon as its standard input closes.

    If the input is a pipe from the parent process, this process therefore ends with its parent.
    """

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os.kill(os.getpid(), KILL)

    threading.Thread(target=wait, name="end with input", daemon=True).start()


@contextlib.contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C until the block ends, so that `defer_sigint` delays it as well.

    Service managers and batch queues stop processes by SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set signal handlers
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGINT)

    # A background job of a shell ignores Ctrl-C, but must still end by SIGTERM.
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    before = signal.signal(signal.SIGTERM, interrupt)
    if ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        # The value is None if the earlier handler was not set by Python.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


@contextlib.contextmanager
def defer_sigint() -> Iterator[None]:
    """Delay Ctrl-C until the block ends, for operations that must not stop half way.

    Operations on Python's own queues are an example. If Ctrl-C interrupts such an operation, it may
    never wake a waiting thread, and the program waits for this thread forever when it ends.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed during the block. It is raised at the end of the
            block, by the handler that was set before.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or handler is None:
        yield  # only the main thread receives Ctrl-C
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
def block_sigint_in_children(*others: signal.Signals) -> Iterator[None]:
    """Delay Ctrl-C until the block ends, and block it permanently in processes that it starts.

    Ctrl-C in a terminal reaches all processes of its group. A child that is still importing would
    end with a traceback. If a child ended on its own, its parent might wait for it forever, or fail
    during its own setup. Children inherit the signal mask, so only this process stops them. On
    Windows, children are not protected.

    Args:
        others: Further signals to block, such as SIGTERM, which also reach a whole group. The
            parent cannot use these signals to end such a child.

    Raises:
        KeyboardInterrupt: See `defer_sigint`.
    """
    with defer_sigint():
        if sys.platform == "win32":
            yield
            return
        # Python's resource tracker removes the mask when it starts. So it must start before.
        resource_tracker.ensure_running()
        # The mask applies to this thread only. Another thread may receive the signal.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *others})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
