"""A command of this package in a child process that ends with its parent."""

import runpy
import subprocess
import sys
from collections.abc import Sequence
from typing import IO

from simgan_captcha.interrupts import end_with_input


def start_command(arguments: Sequence[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start ``simgan-captcha`` with these arguments.

    Ctrl-C in the terminal of this process does not reach the child. The child ends when its
    standard input closes. The system closes it when this process ends, for any reason.

    Args:
        arguments: Arguments of the command line, such as ``["teach", "RUN"]``.
        output: File for its output and its messages.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "simgan_captcha.serving.child", *arguments],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


if __name__ == "__main__":
    end_with_input()
    runpy.run_module("simgan_captcha", run_name="__main__", alter_sys=True)
