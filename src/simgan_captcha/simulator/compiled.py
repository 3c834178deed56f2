"""Compilation of loops over single pixels, on their first call.

Compiled code is cached on disk, so only the first process waits some seconds for the compiler.
Without a writable cache folder, every process compiles again. The compiler must not reorder sums,
so all machines and numbers of threads compute the same bits.
"""

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import numba

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def compiled(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Compile a function of numbers and arrays; it releases the GIL while it runs.

    Array indices are not checked.
    """
    options = {"nogil": True, "error_model": "numpy"}
    try:
        made = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no cache folder is writable
        made = numba.njit(**options)(function)
    return cast(Callable[Arguments, Result], made)
