"""Sets of texts as deterministic automata: those of some lengths, and those that match a pattern.

Shapes: S states, A classes (characters of an alphabet).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from simgan_captcha.errors import ConfigError
from simgan_captcha.inference.constraints.pattern import Choice, Node, OneOf, Repeat, Series, parse
from simgan_captcha.shown import shortened
from simgan_captcha.types import Ids, Mask

_MOST_STATES = 2000
"""Maximum number of states, so that a short pattern such as ``(.{64}){64}`` takes no memory."""


@dataclass(frozen=True, eq=False)
class Automaton:
    """A set of texts; a text leads from state 0 to the state of its last character."""

    moves: Ids
    """(S, A): the next state for each character; -1 if no text of the set continues so."""
    accepting: Mask
    """(S,): whether a text may end in the state."""

    def accepts(self, ids: Iterable[int]) -> bool:
        """Whether a text belongs to the set, given by its class ids."""
        state = 0
        for number in ids:
            state = int(self.moves[state, number])
            if state < 0:
                return False
        return bool(self.accepting[state])

    @property
    def empty(self) -> bool:
        """Whether no text belongs to the set."""
        return not self.accepting.any()

    @property
    def used(self) -> Ids:
        """Classes that occur in a text of the set."""
        return np.flatnonzero((self.moves >= 0).any(0))

    def of(self, classes: Sequence[int] | Ids) -> "Automaton":
        """The same set over some of the classes, in this order; others occur in no text."""
        return Automaton(self.moves[:, classes], self.accepting)


def of_any_length(classes: int) -> Automaton:
    """All texts."""
    return Automaton(np.zeros((1, classes), np.int64), np.ones(1, bool))


@lru_cache(maxsize=32)
def of_lengths(classes: int, fewest: int, most: int) -> Automaton:
    """All texts of ``fewest`` to ``most`` characters; state n stands for n characters."""
    moves = np.repeat(np.arange(1, most + 2)[:, None], classes, 1)
    moves[most] = -1
    return Automaton(moves, np.arange(most + 1) >= fewest)


def both(one: Automaton, other: Automaton) -> Automaton:
    """The texts that belong to both sets."""
    pairs = {(0, 0): 0}
    order, rows = [(0, 0)], []
    for first, second in order:  # grows in the loop
        onward = one.moves[first], other.moves[second]
        row = np.full(one.moves.shape[1], -1)
        for k in np.flatnonzero((onward[0] >= 0) & (onward[1] >= 0)).tolist():
            pair = int(onward[0][k]), int(onward[1][k])
            if pair not in pairs:
                pairs[pair] = len(order)
                order.append(pair)
            row[k] = pairs[pair]
        rows.append(row)
    ends = [bool(one.accepting[a] and other.accepting[b]) for a, b in order]
    return _trimmed(np.stack(rows), np.array(ends))


def of_pattern(pattern: str, classes: Sequence[str]) -> Automaton:
    """All texts that match a pattern as a whole, see `pattern.parse`.

    Args:
        pattern: Such as ``[A-Z]{2}\\d{4}``.
        classes: Characters that are read as each class, usually one.

    Raises:
        ConfigError: The pattern is invalid, too large, or has a character of no class.
    """
    machine = _Nondeterministic(pattern)
    end = machine.add(parse(pattern, classes), machine.state())
    start = machine.closure({0})
    numbers = {start: 0}
    order, rows = [start], []
    for states in order:  # grows in the loop
        targets: dict[int, set[int]] = {}
        for state in states:
            for allowed, target in machine.moves[state]:
                for k in allowed:
                    targets.setdefault(k, set()).add(target)
        row = np.full(len(classes), -1)
        for k, reached in targets.items():
            closed = machine.closure(reached)
            if closed not in numbers:
                numbers[closed] = len(order)
                order.append(closed)
            row[k] = numbers[closed]
        rows.append(row)
        if len(order) > _MOST_STATES:
            raise machine.too_large()
    return _trimmed(np.stack(rows), np.array([end in states for states in order]))


class _Nondeterministic:
    """The automaton of a pattern, with empty moves (Thompson 1968)."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.parts = 0
        self.moves: list[list[tuple[frozenset[int], int]]] = []
        self.empty: list[list[int]] = []

    def state(self) -> int:
        if len(self.moves) >= _MOST_STATES:
            raise self.too_large()
        self.moves.append([])
        self.empty.append([])
        return len(self.moves) - 1

    def too_large(self) -> ConfigError:
        return ConfigError(
            f"expected a pattern of at most {_MOST_STATES} states, "
            f"{shortened(self.pattern)} has more; repeat less"
        )

    def add(self, node: Node, start: int) -> int:
        """Add a part of a pattern after a state; return the state behind it."""
        self.parts += 1
        if self.parts > 10 * _MOST_STATES:  # empty parts need no states
            raise self.too_large()
        match node:
            case OneOf(allowed):
                end = self.state()
                self.moves[start].append((allowed, end))
                return end
            case Series(parts):
                for part in parts:
                    start = self.add(part, start)
                return start
            case Choice(options):
                ends = [self.add(option, start) for option in options]
                end = self.state()
                for each in ends:
                    self.empty[each].append(end)
                return end
            case Repeat(part, fewest, None):
                for _ in range(fewest):
                    start = self.add(part, start)
                loop = self.state()
                self.empty[start].append(loop)
                self.empty[self.add(part, loop)].append(loop)
                return loop
            case Repeat(part, fewest, most):
                for _ in range(fewest):
                    start = self.add(part, start)
                ends = [start]
                for _ in range(fewest, most or 0):
                    ends.append(self.add(part, ends[-1]))
                end = self.state()
                for each in ends:
                    self.empty[each].append(end)
                return end

    def closure(self, states: Iterable[int]) -> frozenset[int]:
        """The states and all that empty moves reach from them."""
        found = set(states)
        waiting = list(found)
        while waiting:
            for target in self.empty[waiting.pop()]:
                if target not in found:
                    found.add(target)
                    waiting.append(target)
        return frozenset(found)


def _trimmed(moves: Ids, accepting: Mask) -> Automaton:
    """The same set without the states from which no text ends; the first state stays."""
    alive = accepting.copy()
    while True:
        leads = ((moves >= 0) & alive[moves]).any(1) | alive
        if (leads == alive).all():
            break
        alive = leads
    kept = alive.copy()
    kept[0] = True
    numbers = np.where(alive, np.cumsum(kept) - 1, -1)
    return Automaton(np.where(moves >= 0, numbers[moves], -1)[kept], accepting[kept])
