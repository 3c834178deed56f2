"""The Python interface: learn a reader from images, inspect images, read images.

Its names are imported from `simgan_captcha`. The command line uses the same functions.
"""
