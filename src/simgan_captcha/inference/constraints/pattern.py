"""Parses patterns of texts, a small part of Python's regular expressions.

    pattern   = option ("|" option)*
    option    = (part repeat?)*
    part      = character | "." | "\\d" | "\\w" | "[...]" | "(" pattern ")" | "(?:" pattern ")"
    repeat    = "?" | "*" | "+" | "{n}" | "{m,n}" | "{m,}" | "{,n}"

Everything means the same as in Python's module ``re``, which also decides which characters belong
to a part. A pattern always covers the whole text.
"""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from simgan_captcha.errors import ConfigError
from simgan_captcha.shown import shortened

_MOST_NESTED = 50
_MOST_REPEATS = 1000
_LONGEST = 1000


@dataclass(frozen=True)
class OneOf:
    """One character out of some classes."""

    allowed: frozenset[int]


@dataclass(frozen=True)
class Series:
    """Parts one after another."""

    parts: "tuple[Node, ...]"


@dataclass(frozen=True)
class Choice:
    """One of several alternatives."""

    options: "tuple[Node, ...]"


@dataclass(frozen=True)
class Repeat:
    """A part several times."""

    part: "Node"
    fewest: int
    most: int | None
    """None: any number."""


Node = OneOf | Series | Choice | Repeat


def parse(pattern: str, classes: Sequence[str]) -> Node:
    """Parse a pattern.

    Args:
        pattern: Such as ``[A-Z]{2}\\d{4}``.
        classes: Characters that are read as each class, usually one. ``[A-Z]`` allows those of
            its characters that belong to a class.

    Raises:
        ConfigError: The pattern is invalid, or one of its parts has no character of a class.

    Example:
        >>> parse("a|b", "ab")
        Choice(options=(OneOf(allowed=frozenset({0})), OneOf(allowed=frozenset({1}))))
    """
    if len(pattern) > _LONGEST:
        raise ConfigError(
            f"expected a pattern of at most {_LONGEST} characters, got {shortened(pattern)}"
        )
    parser = _Parser(pattern, classes)
    node = parser.choice(0)
    if parser.at < len(pattern):
        raise parser.error("this ) closes no group; leave it out, or write \\)")
    return node


class _Parser:
    """A position in a pattern; the methods parse one rule each and move on."""

    def __init__(self, pattern: str, classes: Sequence[str]) -> None:
        self.pattern, self.classes = pattern, classes
        self.at = 0

    def error(self, why: str) -> ConfigError:
        """The error at the position."""
        rest = shortened(self.pattern[self.at :], 10)
        return ConfigError(
            f"expected a pattern such as [A-Z]{{2}}\\d{{4}}, got {self.pattern}, at "
            f"{rest or 'its end'}: {why}"
        )

    def takes(self, text: str) -> bool:
        """Move over a text if it comes next."""
        found = self.pattern.startswith(text, self.at)
        self.at += len(text) * found
        return found

    def choice(self, depth: int) -> Node:
        if depth > _MOST_NESTED:
            raise self.error(f"groups are nested more than {_MOST_NESTED} times; nest them less")
        options = [self.series(depth)]
        while self.takes("|"):
            options.append(self.series(depth))
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def series(self, depth: int) -> Node:
        parts = list[Node]()
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            parts.append(self.repeated(self.part(depth)))
        return parts[0] if len(parts) == 1 else Series(tuple(parts))

    def part(self, depth: int) -> Node:
        if self.takes("("):
            if not self.takes("?:") and self.pattern.startswith("?", self.at):
                raise self.error("of the groups with ?, only (?:...) is known; use (...)")
            node = self.choice(depth + 1)
            if not self.takes(")"):
                raise self.error("a group is not closed; add )")
            return node
        character = self.pattern[self.at]
        if character in "^$":
            raise self.error(f"a pattern always covers the whole text; leave out {character}")
        if character in "?*+{":
            raise self.error(
                f"there is nothing to repeat, or it is repeated twice; write \\{character} for the "
                "character itself"
            )
        return self.one_of(self.source())

    def source(self) -> str:
        """The text of a part that stands for one character."""
        found = re.compile(r"\\[dDwWsS\W_]|\[\^?\]?(?:\\.|[^\]\\])*\]|[^\\\[]", re.DOTALL).match(
            self.pattern, self.at
        )
        if found is None:
            raise self.error(
                "the class is not closed; add ], or write \\[ for the character itself"
                if self.pattern[self.at] == "["
                else "of the letters after \\, only d, D, w, W, s and S are known"
            )
        return found[0]

    def one_of(self, source: str) -> OneOf:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", FutureWarning)  # as for "[[" or "--" in a class
                matches = re.compile(source).fullmatch
        except (re.error, FutureWarning) as error:
            raise self.error(f"{error}; write \\ before each sign that stands for itself") from None
        allowed = frozenset(
            k for k, forms in enumerate(self.classes) if any(matches(form) for form in forms)
        )
        if not allowed:
            raise self.error(
                f"{source} is none of the characters that the reader knows, which are "
                f"{shortened(''.join(self.classes))!r}; change the pattern, or learn a reader that "
                "knows it"
            )
        self.at += len(source)
        return OneOf(allowed)

    def repeated(self, part: Node) -> Node:
        if self.takes("?"):
            return Repeat(part, 0, 1)
        if self.takes("*"):
            return Repeat(part, 0, None)
        if self.takes("+"):
            return Repeat(part, 1, None)
        if not self.pattern.startswith("{", self.at):
            return part
        found = re.compile(r"\{([0-9]{1,4})\}|\{([0-9]{0,4}),([0-9]{0,4})\}").match(
            self.pattern, self.at
        )
        if found is None:
            raise self.error("expected {n} or {m,n}; write \\{ for the character itself")
        exactly, fewest, most = found.groups()
        least = int(exactly or fewest or 0)
        greatest = int(exactly or most) if exactly or most else None
        if least > (least if greatest is None else greatest) or least > _MOST_REPEATS:
            raise self.error(f"expected {{m,n}} with m at most n and at most {_MOST_REPEATS}")
        self.at += len(found[0])
        return Repeat(part, least, greatest)
