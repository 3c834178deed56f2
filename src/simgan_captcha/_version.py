"""Versions of the package and of its files, in a module that imports nothing."""

__version__ = "0.1.0"

FORMAT = 2
"""Format of run folders and exported readers. It increases when those of earlier versions no longer
work. Format 1 was not recorded."""
