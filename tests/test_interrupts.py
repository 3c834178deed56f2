"""Ctrl-C waits until a protected block has ended, and is not lost."""

import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from simgan_captcha.interrupts import block_sigint_in_children, defer_sigint

Guard = Callable[[], AbstractContextManager[None]]


def press() -> None:
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)


def pressed_within(done: list[str], *guards: Guard) -> None:
    """Press Ctrl-C in the innermost block, and record which blocks continue."""
    if not guards:
        press()
    else:
        with guards[0]():
            pressed_within(done, *guards[1:])
            done.append(guards[0].__name__)
        done.append("after")


@pytest.mark.parametrize("guard", [defer_sigint, block_sigint_in_children])
def test_ctrl_c_comes_when_the_block_has_ended(guard: Guard) -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        pressed_within(done, guard)
    assert done == [guard.__name__]
    with pytest.raises(KeyboardInterrupt):  # the handler is restored
        press()


def test_blocks_within_blocks() -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        pressed_within(done, defer_sigint, block_sigint_in_children)
    assert done == ["block_sigint_in_children", "after", "defer_sigint"]


def fail_within() -> None:
    with defer_sigint():
        press()
        raise ValueError("own")


def test_the_blocks_own_error_goes_before_a_ctrl_c() -> None:
    with pytest.raises(ValueError, match="own"):
        fail_within()
    with pytest.raises(KeyboardInterrupt):
        press()


def test_other_threads_hold_nothing() -> None:
    """Only the main thread can handle signals and set handlers."""
    same: list[bool] = []

    def work() -> None:
        before = signal.getsignal(signal.SIGINT)
        with defer_sigint():
            same.append(signal.getsignal(signal.SIGINT) is before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert same == [True]
