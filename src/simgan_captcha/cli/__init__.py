"""The command line: one module of commands for each purpose.

A command parses its options, calls the library and prints the result. Slow imports such as torch
are delayed until a command needs them, so that ``--help`` and errors are fast.
"""

from simgan_captcha.cli import judge, learn, puzzle, read, teach, use  # noqa: F401  # they add their commands
from simgan_captcha.cli.app import app, main

__all__ = ["app", "main"]
