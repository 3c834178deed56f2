"""Safe display of text from unknown sources on a terminal, in a spreadsheet and in a report."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Pattern of control characters except tab and line feed, of marks that change the direction of
writing, and of surrogates, with which Python represents bytes that are not UTF-8."""
_SURROGATES = re.compile("[\\ud800-\\udfff]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def printable(text: str) -> str:
    r"""Escape all characters of a text that control a terminal or cannot be encoded.

    Example:
        >>> print(printable("a\x1b[31mb"))
        a\x1b[31mb
    """
    return _HIDDEN.sub(lambda found: _escaped(found[0]), text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a surrogate of a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def one_line(text: str) -> str:
    r"""Escape a text as `printable` does, and also line feeds and tabs.

    Example:
        >>> print(one_line("a\nb"))
        a\nb
    """
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def shortened(text: str, most: int = 60) -> str:
    """Shorten a long text to its beginning and the number of its characters.

    Example:
        >>> shortened("abcdefgh", 3)
        'abc… (8 characters)'
    """
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def few_of(few: Sequence[str], count: int) -> str:
    """List a few of ``count`` names, shortened and printable.

    Example:
        >>> few_of(["a.png", "b.png"], 5)
        'a.png, b.png, …'
    """
    shown = [shortened(one_line(name)) for name in few]
    return ", ".join([*shown, *(["…"] if count > len(few) else [])])


def spreadsheet_cell(text: str) -> str:
    """Put an apostrophe before a text that a spreadsheet would interpret as a formula.

    Example:
        >>> spreadsheet_cell("=1+1"), spreadsheet_cell("a=1")
        ("'=1+1", 'a=1')
    """
    # Such a text with leading apostrophes also gets another one, so the result is unambiguous.
    risky = text.lstrip("'").startswith(_FORMULA)
    return f"'{text}" if risky else text


def from_spreadsheet_cell(cell: str) -> str:
    """Restore the text of a cell from `spreadsheet_cell`.

    Example:
        >>> from_spreadsheet_cell("'=1+1"), from_spreadsheet_cell("'tis")
        ('=1+1', "'tis")
    """
    risky = cell.startswith("'") and cell.lstrip("'").startswith(_FORMULA)
    return cell[1:] if risky else cell


def without_home(text: str) -> str:
    """Replace the home folder in a text by ``~``, because its path contains the user name."""
    home = str(Path.home())
    if len(home) < 2:
        return text
    homes = "|".join(re.escape(one) for one in (home, quote(home)))
    return re.sub(rf"(?:(?<![\w./~-])|(?<=file://))(?:{homes})(?![\w.-])", "~", text)


def in_utf8(text: str) -> str:
    r"""Escape bytes of a text that are not UTF-8, which file names may contain.

    Example:
        >>> print(in_utf8("caf\udce9"))
        caf\xe9
    """
    return _SURROGATES.sub(lambda found: _escaped(found[0]), text)


def taught_with(count: int) -> str:
    """The words ``taught with N labels`` about a reader."""
    return f"taught with {count} label{'s' if count != 1 else ''}"


def did_you_mean(word: str, known: Sequence[str], otherwise: str) -> str:
    """A question that names the nearest known word; ``otherwise`` if none is near."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else otherwise
