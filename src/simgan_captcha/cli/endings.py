"""Ends of a command: exit codes, SIGTERM, and a closed output pipe."""

import contextlib
import os
import select
import sys
from collections.abc import Iterator

from simgan_captcha.interrupts import termination_as_interrupt

DONE, FAILED, IMPOSSIBLE, WEAK = range(4)

EXIT_CODES = {
    DONE: "The command did what was asked.",
    FAILED: "Something failed, such as an unfinished run, a damaged file or a full disk, or the "
    "command was interrupted. Also if `read` could not read one of the images, or if the puzzle "
    "refused the solutions of `submit` or `demo`.",
    IMPOSSIBLE: "The request is impossible, such as an unknown option, a wrong setting, a scheme "
    "that does not fit, or a missing extra.",
    WEAK: "The severity that `audit` found is that of `--fail-on` or higher.",
}
"""All exit codes of the command line and their meanings, for docs/commands.md."""


@contextlib.contextmanager
def ending_well() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C, and flush the output at the end of the block.

    Raises:
        BrokenPipeError: The process that reads the output has ended, see `reader_has_left`.
    """
    with termination_as_interrupt():
        yield
        sys.stdout.flush()  # a later error in the interpreter would print a traceback


def reader_has_left() -> bool:
    """Whether the process that reads the output has ended, such as ``head`` after ten lines."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):
        return False  # the output is no file
    if not hasattr(select, "poll"):
        return not os.isatty(output)
    waiting = select.poll()
    waiting.register(output, select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in waiting.poll(0))
