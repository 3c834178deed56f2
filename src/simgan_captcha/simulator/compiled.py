"""Loops over single pixels, compiled when they are first called.

Compiled code is kept on disk, so that only the first process that ever draws waits for it, some
seconds; where no folder can be written to, every process compiles anew. No reordering of sums is
allowed: all machines and numbers of threads compute the same bits.
"""

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import numba

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def compiled(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A function of numbers and arrays, as machine code; it lets other threads run meanwhile.

    Array indices are not checked.
    """
    options = {"nogil": True, "error_model": "numpy"}
    try:
        made = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither beside this file nor at home is such a folder
        made = numba.njit(**options)(function)
    return cast(Callable[Arguments, Result], made)
