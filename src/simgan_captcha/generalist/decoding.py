"""Reads texts from the generalist's columns, within an alphabet and a range of lengths.

Shapes: T columns, K classes of which class 0 is the blank, A characters of the alphabet, N
characters of a text at most.
"""

import copy
import heapq
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from simgan_captcha.errors import ConfigError
from simgan_captcha.generalist.characters import BLANK, CHARACTERS
from simgan_captcha.inference.constraints.automaton import Automaton, of_any_length, of_lengths
from simgan_captcha.types import Doubles, Floats, Ids

_NEVER = np.float32(-1e9)
_LEAST = 1e-4
"""If a set of texts treats all characters alike, those that are less probable everywhere are left
out."""


@dataclass(frozen=True)
class Decoded:
    """One text."""

    text: str
    columns: tuple[int, ...]
    """Output column of each character: where it is most probable."""
    confidences: tuple[float, ...]
    """Probability of each character at its column, given that a character is there."""
    confidence: float
    """Probability of the whole text under CTC: the sum over all its alignments."""


class Alphabet:
    """Characters that texts may hold, and the classes of the network that count for each."""

    def __init__(self, characters: str | None = None) -> None:
        """Choose characters.

        Args:
            characters: Of the texts; None: all that the generalist knows. If the other case of a
                letter is missing, it counts for both. Sites that ignore case draw either.

        Raises:
            ConfigError: No characters, a repeated one, or one that the generalist does not know.
        """
        characters = CHARACTERS if characters is None else characters
        unknown = [c for c in characters if c not in CHARACTERS]
        if unknown or not characters or len(set(characters)) < len(characters):
            raise ConfigError(
                f"expected an alphabet of different characters out of {CHARACTERS}, got "
                f"{characters!r}; a run that learns (simgan-captcha run) can have any alphabet"
            )
        self.characters = characters
        shares = np.zeros((len(CHARACTERS), len(characters)), np.float32)
        for number, character in enumerate(characters):
            for form in {character, character.swapcase()}:
                if form == character or form not in characters:
                    index = CHARACTERS.find(form)
                    if index >= 0 and len(form) == 1:
                        shares[index, number] = 1
        self._shares = shares

    def with_biases(self, biases: Doubles) -> "Alphabet":
        """The same characters, with biases (A,) added to their logits."""
        biased = copy.copy(self)
        biased._shares = self._shares * np.exp(biases, dtype=np.float32)
        return biased

    def probabilities(self, logits: Floats) -> Floats:
        """(T, 1 + A) from logits (T, K): the blank, then the alphabet.

        The probability of characters outside the alphabet goes to those inside, in proportion to
        their own, and none of it to the blank: p(c) = (1 - p(blank)) q(c). Here q is the
        distribution over the alphabet.
        """
        logits = logits - logits.max(1, keepdims=True)
        weights = np.exp(logits, dtype=np.float32)
        blank = weights[:, BLANK] / weights.sum(1)
        inside = weights[:, BLANK + 1 :] @ self._shares + np.float32(1e-12)
        inside *= ((1 - blank) / inside.sum(1))[:, None]
        return np.concatenate([blank[:, None], inside], 1)


class PossibleTexts(NamedTuple):
    """The texts that images of a family may show."""

    alphabet: Alphabet
    """Their characters."""
    texts: Automaton
    """The set of texts over the alphabet."""

    @staticmethod
    def of_lengths(alphabet: Alphabet, lengths: tuple[int, int] | None = None) -> "PossibleTexts":
        """All texts with the fewest to the most characters; None: any number."""
        count = len(alphabet.characters)
        texts = of_any_length(count) if lengths is None else of_lengths(count, *lengths)
        return PossibleTexts(alphabet, texts)


def decode_columns(logits: Floats, possible: PossibleTexts) -> Decoded:
    """The text of the most probable alignment.

    An image with too few columns for any text gives another text, of fewer characters.

    Args:
        logits: (T, K) of one image.
        possible: The texts to choose from.
    """
    alphabet, texts = possible
    probabilities = alphabet.probabilities(logits)
    log = _logarithm(probabilities)
    path = log.argmax(1)
    ids = collapsed(path)
    if not texts.accepts(i - 1 for i in ids):
        _, path = _best_path(log, texts)
        ids = collapsed(path)
    columns = _peaks(path, log)
    inside = np.array([1 - probabilities[t, 0] for t in columns])
    each = np.array([probabilities[t, i] for t, i in zip(columns, ids, strict=True)])
    return Decoded(
        "".join(alphabet.characters[i - 1] for i in ids),
        tuple(columns),
        tuple((each / np.maximum(inside, 1e-6)).clip(0, 1).tolist()),
        float(np.exp(ctc_log_probability(log, ids))),
    )


def collapsed(path: Ids) -> list[int]:
    """CTC's map from a path to ids: repeats are merged, then blanks are left out."""
    changed = np.concatenate([[True], path[1:] != path[:-1]])
    return [int(i) for i in path[changed] if i != 0]


def _peaks(path: Ids, log: Floats) -> list[int]:
    """Of each run of a character its most probable column."""
    starts = np.flatnonzero(np.concatenate([[True], path[1:] != path[:-1]]))
    ends = [*starts[1:].tolist(), len(path)]
    return [
        int(begin + log[begin:end, path[begin]].argmax())
        for begin, end in zip(starts.tolist(), ends, strict=True)
        if path[begin] != 0
    ]


def _best_path(log: Floats, texts: Automaton) -> tuple[float, Ids]:
    """The most probable path whose text belongs to a set (Viterbi), and its log probability.

    If there is none, the probability is below _NEVER / 2, and the text is another one.

    After column t, ``here[s, c]`` is the best path whose text leads to state s of the automaton and
    that ends in c (0: a blank). The state after s and character c is s.c:

        here'[s, 0] = log p(blank) + max_c here[s, c]
        here'[s, c] = log p(c) + max(here[s, c], max_{r: r.c = s} max_{c' != c} here[r, c'])

    If the set treats all characters alike, those that are improbable in every column are left out.
    """
    T, C = log.shape
    tried = np.arange(C)
    if (texts.moves == texts.moves[:, :1]).all():
        some = 1 + np.flatnonzero(log[:, 1:].max(0) > np.log(_LEAST))
        tried = np.concatenate([[0], some]) if len(some) else tried
    p, A, S = log[:, tried], len(tried), len(texts.moves)
    before = _states_before(texts.moves[:, tried[1:] - 1])
    here = np.full((S, A), _NEVER, np.float32)
    here[0, 0] = 0
    back = np.zeros((T, S, A), np.int32)  # s * A + c of the place before
    places, columns, rows = np.arange(S * A).reshape(S, A), np.arange(A), np.arange(S)
    for t in range(T):
        order = np.argsort(here, axis=1)
        first, second = order[:, -1], order[:, -2] if A > 1 else order[:, -1]
        best, next_best = here[rows, first], here[rows, second]
        # From each state in anything but c; the last row is for the states that nothing leads to.
        other = np.where(first[:, None] == columns, second[:, None], first[:, None])
        value = np.where(first[:, None] == columns, next_best[:, None], best[:, None])
        value = np.concatenate([value, np.full((1, A), _NEVER, np.float32)])
        came = np.concatenate([places[:, :1] + other, np.zeros((1, A), np.int64)])
        new, back[t] = here.copy(), places
        for states in before:
            entered = value[states, columns]
            enters = entered > new
            new = np.where(enters, entered, new)
            back[t] = np.where(enters, came[states, columns], back[t])
        new[:, 0] = best
        back[t, :, 0] = places[:, 0] + first
        here = new + p[t]
    ends = np.flatnonzero(texts.accepting)
    state = int(ends[here[ends].max(1).argmax()])
    score = float(here[state].max())
    if score < _NEVER / 2:  # fewer columns than characters
        state = int(np.flatnonzero(here.max(1) > _NEVER / 2)[-1])
    place = int(places[state, here[state].argmax()])
    path = np.zeros(T, np.int64)
    for t in range(T - 1, -1, -1):
        path[t] = tried[place % A]
        place = int(back[t].reshape(-1)[place])
    return score, path


def _states_before(moves: Ids) -> list[Ids]:
    """Arrays (S, 1 + A) that together hold all states from which c leads to a state; else S."""
    S, A = moves.shape
    before = list[Ids]()
    for state, character in zip(*(part.tolist() for part in np.nonzero(moves >= 0)), strict=True):
        target = moves[state, character]
        free = (one for one in before if one[target, 1 + character] == S)
        one = next(free, None)
        if one is None:
            one = np.full((S, 1 + A), S)
            before.append(one)
        one[target, 1 + character] = state
    return before


def other_texts(
    logits: Floats, possible: PossibleTexts, text: str, count: int
) -> list[tuple[str, float]]:
    """The texts of a set that are read after the best one, with their probabilities under CTC.

    They are those of the most probable alignments. Each text c_1 ... c_n that is taken leaves the
    rest of its part of the set. For each i, the texts of this rest that begin with c_1 ... c_i and
    do not continue with c_{i+1} form a new part. The next text is the best one of all parts.

    Source: Lawler 1972, "A procedure for computing the K best solutions".

    Args:
        logits: (T, K) of one image.
        possible: The texts to choose from.
        text: The best one, see `decode_columns`.
        count: Greatest number of other texts.
    """
    alphabet, texts = possible
    log = _logarithm(alphabet.probabilities(logits))
    waiting: list[tuple[float, int, tuple[int, ...], _Part]] = []
    taken = tuple(alphabet.characters.index(c) for c in text)
    numbers = itertools.count()
    part, found = _Part((), frozenset(), True), list[tuple[int, ...]]()
    while True:
        for smaller in part.without(taken):
            score, path = _best_path(log, smaller.of(texts))
            ids = tuple(i - 1 for i in collapsed(path))
            if score > _NEVER / 2:
                # The number decides between equal scores, so that parts are not compared.
                heapq.heappush(waiting, (-score, next(numbers), ids, smaller))
        if not waiting or len(found) == count:
            break
        _, _, taken, part = heapq.heappop(waiting)
        found.append(taken)
    scored = [(ctc_log_probability(log, [i + 1 for i in ids]), ids) for ids in found]
    return [
        ("".join(alphabet.characters[i] for i in ids), min(1.0, float(np.exp(score))))
        for score, ids in sorted(scored, reverse=True)
    ]


@dataclass(frozen=True)
class _Part:
    """The texts of a set that begin with a prefix and do not continue in certain ways."""

    prefix: tuple[int, ...]
    excluded: frozenset[int]
    """Characters that do not follow the prefix."""
    may_end: bool
    """Whether the prefix itself belongs to the part."""

    def without(self, text: tuple[int, ...]) -> "Iterator[_Part]":
        """Parts that together hold all texts of this one except the given one."""
        for i in range(len(self.prefix), len(text) + 1):
            own = i == len(self.prefix)
            excluded = self.excluded if own else frozenset[int]()
            may_end = self.may_end if own else True
            if i < len(text):
                yield _Part(text[:i], excluded | {text[i]}, may_end)
            else:
                yield _Part(text, excluded, False)

    def of(self, texts: Automaton) -> Automaton:
        """The part of a set: the prefix's states, the state behind it, then those of the set."""
        n, (S, A) = len(self.prefix), texts.moves.shape
        moves = np.full((n + 1 + S, A), -1)
        moves[n + 1 :] = np.where(texts.moves >= 0, texts.moves + n + 1, -1)
        moves[range(n), self.prefix] = range(1, n + 1)
        state = 0
        for character in self.prefix:
            state = int(texts.moves[state, character])
        moves[n] = moves[n + 1 + state]
        moves[n, list(self.excluded)] = -1
        ends = texts.accepting[state] and self.may_end
        return Automaton(moves, np.concatenate([np.zeros(n, bool), [ends], texts.accepting]))


def _logarithm(probabilities: Floats) -> Floats:
    return np.log(np.maximum(probabilities, 1e-9)).astype(np.float32)


def ctc_log_probability(log: Floats, ids: Sequence[int]) -> float:
    """Log of the summed probability of all paths (T, 1 + A) that collapse to ids.

    Source: Graves et al. 2006, section 4.1 (the forward variables alpha).
    """
    labels = np.zeros(2 * len(ids) + 1, np.int64)
    labels[1::2] = ids
    skips = np.zeros(len(labels), bool)
    skips[3::2] = labels[3::2] != labels[1:-2:2]
    alpha = np.full(len(labels), -np.inf)
    alpha[:2] = log[0, labels[:2]]
    for row in log[1:, labels].astype(np.float64):
        one = np.concatenate([[-np.inf], alpha[:-1]])
        two = np.where(
            skips, np.concatenate([[-np.inf, -np.inf], alpha[:-2]])[: len(alpha)], -np.inf
        )
        alpha = np.logaddexp(np.logaddexp(alpha, one), two) + row
    return float(np.logaddexp.reduce(alpha[-2:])) if len(labels) > 1 else float(alpha[-1])


def length_probabilities(probabilities: Floats, most: int) -> Doubles:
    """Probability of each number of characters, 0 to ``most``, summed over all texts.

    After column t, a[n, c] is the summed probability of all paths whose text has n characters and
    that end in c (0: a blank). Then

        a'[n, 0] = p(blank) sum_c a[n, c]
        a'[n, c] = p(c) (a[n, c] + sum_{c' != c} a[n - 1, c'])

    Args:
        probabilities: (T, 1 + A), see `Alphabet.probabilities`.
        most: Longer texts are left out.

    Returns:
        (1 + most,).
    """
    here = np.zeros((most + 1, probabilities.shape[1]))
    here[0, 0] = 1
    for column in probabilities.astype(np.float64):
        ended = here.sum(1)
        new = np.zeros_like(here)
        new[:, 0] = ended
        new[1:, 1:] = here[1:, 1:] + ended[:-1, None] - here[:-1, 1:]
        here = new * column
    return np.asarray(here.sum(1))
