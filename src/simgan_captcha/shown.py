"""Text of unknown origin as it may be shown: on a terminal, in a spreadsheet, in a report."""

import re
from pathlib import Path
from urllib.parse import quote

_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters but tab and line feed, marks that turn the direction of writing, and bytes of
names that are not UTF-8."""
_SURROGATES = re.compile("[\\ud800-\\udfff]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def printable(text: str) -> str:
    r"""The text with everything that steers a terminal or cannot be encoded written as an escape.

    Example:
        >>> print(printable("a\x1b[31mb"))
        a\x1b[31mb
    """
    return _HIDDEN.sub(lambda found: _escaped(found[0]), text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def one_line(text: str) -> str:
    r"""The text as `printable` gives it, line feeds and tabs written as escapes, too.

    Example:
        >>> print(one_line("a\nb"))
        a\nb
    """
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def shortened(text: str, most: int = 60) -> str:
    """The beginning of a long text, and how many characters there are in all.

    Example:
        >>> shortened("abcdefgh", 3)
        'abc… (8 characters)'
    """
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def spreadsheet_cell(text: str) -> str:
    """A cell that no spreadsheet takes for a formula: an apostrophe stands before what looks so.

    Example:
        >>> spreadsheet_cell("=1+1"), spreadsheet_cell("a=1")
        ("'=1+1", 'a=1')
    """
    # One that begins with an apostrophe already gets another, so that nothing is ambiguous.
    risky = text.lstrip("'").startswith(_FORMULA)
    return f"'{text}" if risky else text


def from_spreadsheet_cell(cell: str) -> str:
    """What `spreadsheet_cell` was given.

    Example:
        >>> from_spreadsheet_cell("'=1+1"), from_spreadsheet_cell("'tis")
        ('=1+1', "'tis")
    """
    risky = cell.startswith("'") and cell.lstrip("'").startswith(_FORMULA)
    return cell[1:] if risky else cell


def without_home(text: str) -> str:
    """The text with ``~`` for this user's home folder, whose path holds the user's name."""
    home = str(Path.home())
    if len(home) < 2:
        return text
    homes = "|".join(re.escape(one) for one in (home, quote(home)))
    return re.sub(rf"(?:(?<![\w./~-])|(?<=file://))(?:{homes})(?![\w.-])", "~", text)


def in_utf8(text: str) -> str:
    r"""The text with bytes that are not UTF-8, as names of files may hold, written as escapes.

    Example:
        >>> print(in_utf8("caf\udce9"))
        caf\xe9
    """
    return _SURROGATES.sub(lambda found: _escaped(found[0]), text)


def in_labels(count: int) -> str:
    """``taught with N labels``, of a reader."""
    return f"taught with {count} label{'s' if count != 1 else ''}"
