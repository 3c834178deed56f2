"""The command line: one module of commands for each purpose.

A command parses its options, calls the library and prints. Heavy imports, torch above all, wait
until a command needs them, so that ``--help`` and mistakes are fast.
"""

from simgan_captcha.cli import judge, learn, puzzle, teach, use  # noqa: F401  # they add their commands
from simgan_captcha.cli.app import app, main

__all__ = ["app", "main"]
