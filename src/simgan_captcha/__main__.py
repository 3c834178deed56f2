"""``python -m simgan_captcha`` is ``simgan-captcha``."""

from simgan_captcha.cli import main

main()
