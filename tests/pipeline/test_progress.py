import io

import pytest
from rich.console import Console

from simgan_captcha.pipeline import progress
from simgan_captcha.pipeline.progress import StageProgress


def shown(*, terminal: bool = False, quiet: bool = False) -> tuple[StageProgress, io.StringIO]:
    """A progress and what its user sees."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=terminal, width=120)
    return StageProgress(quiet=quiet, console=console), screen


def test_plain_lines_are_rare_and_include_the_last_step() -> None:
    stages, screen = shown()
    with stages:
        stages.stage("read")
        for step in range(1, 101):
            stages.update(step, 100, loss=1 / step, images_per_second="12/s")
    lines = screen.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].split() == ["read", "1/100", "loss", "1", "images", "per", "second", "12/s"]
    assert lines[1].split()[:4] == ["read", "100/100", "loss", "0.01"]


def test_the_remaining_time_of_a_resumed_stage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "PLAIN_LINE_SECONDS", 0.0)
    stages, screen = shown()
    stages.stage("adapt")
    stages.update(1_000_000, 1_000_100)
    stages.update(1_000_050, 1_000_100)
    stages.update(1_000_100, 1_000_100)
    first, middle, last = screen.getvalue().splitlines()
    assert "ETA" not in first
    assert middle.endswith("ETA 0 s")
    assert "ETA" not in last


def test_each_part_of_a_stage_has_its_own_remaining_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"now": 0.0}
    monkeypatch.setattr("time.monotonic", lambda: clock["now"])
    stages, screen = shown()
    stages.stage("readings")
    for clock["now"], step, total in ((0, 0, 10), (500, 10, 10), (600, 100, 300), (620, 200, 300)):
        stages.update(step, total)
    *_, first, second = screen.getvalue().splitlines()
    assert "ETA" not in first
    assert second.endswith("ETA 20 s")


def test_quiet_shows_only_warnings() -> None:
    stages, screen = shown(quiet=True)
    with stages:
        stages.stage("read")
        stages.update(1, 1, loss=0.5)
        stages.say("hello")
        assert screen.getvalue() == ""
        stages.warn("the discriminator has won")
    assert screen.getvalue() == "warning: the discriminator has won\n"


def test_a_terminal_shows_one_live_line_for_each_stage() -> None:
    stages, screen = shown(terminal=True)
    with stages:
        for name in ("refine", "read"):
            stages.stage(name)
            stages.update(5, 10, loss=0.25)
            stages.update(10, 10, loss=0.125)
    last_frame = screen.getvalue().split("\x1b[2K")[-1]
    for text in ("refine", "read", "10/10", "loss 0.125"):
        assert text in last_frame


def test_messages_are_not_parsed_as_markup() -> None:
    stages, screen = shown()
    stages.say("expected [bold]text[/bold], got [red]")
    assert screen.getvalue() == "expected [bold]text[/bold], got [red]\n"
