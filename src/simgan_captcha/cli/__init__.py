"""The command line."""

from simgan_captcha.cli.commands import app, main

__all__ = ["app", "main"]
