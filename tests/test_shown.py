"""Text of unknown origin has no effect where it is shown."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simgan_captcha.inference.formats import write_csv, write_json, write_lines, write_parquet
from simgan_captcha.inference.reader import Unreadable
from simgan_captcha.inference.readings import Reading
from simgan_captcha.shown import (
    from_spreadsheet_cell,
    in_utf8,
    one_line,
    printable,
    spreadsheet_cell,
    without_home,
)
from simgan_captcha.web.corrections import labels_csv

ANYTHING = st.text(st.characters(codec=None))
NAMES = ["=1+1", "+1", "-1", "@x", "caf\udce9.jpg", "a\x1b[31m\nb", "'=", "plain", "\t=1"]


@given(ANYTHING)
def test_printable_text_steers_no_terminal(text: str) -> None:
    shown = printable(text)
    assert not set(shown) & {chr(c) for c in [*range(9), *range(11, 32), *range(127, 160)]}
    shown.encode()
    assert "\n" not in one_line(text)


@given(ANYTHING)
def test_text_in_utf8_can_be_encoded(text: str) -> None:
    assert in_utf8(text).encode() or not text


@given(ANYTHING)
def test_no_cell_is_a_formula_and_what_it_was_is_known(text: str) -> None:
    cell = spreadsheet_cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert from_spreadsheet_cell(cell) == text


def test_every_format_takes_every_name(tmp_path: Path) -> None:
    rows: list[Reading | Unreadable] = [Reading(name, "ab", 0.5, (0.5, 1.0)) for name in NAMES]
    rows += [Unreadable(name, "no image") for name in NAMES]
    for write in (write_json, write_csv):
        out = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="strict")
        assert write(rows, out) == len(NAMES)
        out.flush()
    strict, errors = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors="strict") for _ in range(2))
    assert write_lines(rows, strict, errors) == len(NAMES)
    for stream in (strict, errors):
        stream.seek(0)
        lines = stream.read().split("\n")
        assert len(lines) == len(NAMES) + 1
        assert "\x1b" not in "".join(lines)
    assert write_parquet(rows, tmp_path / "out.parquet") == len(NAMES)


def test_csv_of_readings_and_corrections_hold_no_formula() -> None:
    out = io.StringIO()
    write_csv([Reading(name, "-1", 0.5, (0.5, 0.5)) for name in NAMES], out)
    for text in (out.getvalue(), labels_csv(dict.fromkeys(NAMES, "=2"))):
        for row in list(csv.reader(io.StringIO(text)))[1:]:
            assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row), row


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/alice", "~"),
        ("x /home/alice/a b", "x ~/a b"),
        ("file:///home/alice/x", "file://~/x"),
        ("/home/alice2/x /data/home/alice/x", "/home/alice2/x /data/home/alice/x"),
    ],
)
def test_the_home_folder_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, text: str, shown: str
) -> None:
    monkeypatch.setenv("HOME", "/home/alice")
    assert without_home(text) == shown
