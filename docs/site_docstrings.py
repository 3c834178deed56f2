"""Docstrings in the form that griffe knows, for the page of the Python interface."""

import re
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    """Names the sections of examples as griffe does, and takes ``::`` for a colon."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change the docstring of an object, if it has one."""
        if obj.docstring is not None:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = re.sub(r"::$", ":", text, flags=re.MULTILINE)
