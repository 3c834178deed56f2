"""How a command ends before its time: by SIGTERM, or because nobody reads what it prints."""

import contextlib
import os
import select
import sys
from collections.abc import Iterator

from simgan_captcha.interrupts import termination_as_interrupt


@contextlib.contextmanager
def ending_well() -> Iterator[None]:
    """Answer SIGTERM as Ctrl-C, and print all that is printed before the block ends.

    Raises:
        BrokenPipeError: What reads the output has ended, as ``head`` does; see `reader_has_left`.
    """
    with termination_as_interrupt():
        yield
        sys.stdout.flush()  # at the interpreter's own end it would be too late for quiet


def reader_has_left() -> bool:
    """Whether what reads this command's output has ended, as ``head`` does after ten lines."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):
        return False  # no file at all
    if not hasattr(select, "poll"):
        return not os.isatty(output)
    waiting = select.poll()
    waiting.register(output, select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in waiting.poll(0))
