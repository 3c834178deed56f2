"""Teaches a finished run with a few labels. Everything here may know true texts of real images.

What it learns lies in a folder of its own, ``RUN/teach``. The readings, the figures and the
recognizers that the run made without labels stay as they are.
"""
