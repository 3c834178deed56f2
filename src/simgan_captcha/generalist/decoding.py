"""Reads texts from the generalist's columns, within an alphabet and a range of lengths.

Shapes: T columns, K classes of which class 0 is the blank, A characters of the alphabet, N
characters of a text at most.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simgan_captcha.errors import ConfigError
from simgan_captcha.generalist.characters import BLANK, CHARACTERS, MOST_CHARACTERS
from simgan_captcha.types import Doubles, Floats, Ids

_NEVER = np.float32(-1e9)
_LEAST = 1e-4
"""Characters that are less probable in every column are not tried."""


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
    """Characters that texts may hold, and what of the network's classes counts for each."""

    def __init__(self, characters: str | None = None) -> None:
        """Choose characters.

        Args:
            characters: Of the texts; None: all that the generalist knows. A letter whose other case
                is missing counts for both: sites that ignore case draw either.

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


def decode_columns(
    logits: Floats, alphabet: Alphabet, lengths: tuple[int, int] | None = None
) -> Decoded:
    """The text of the most probable alignment.

    Args:
        logits: (T, K) of one image.
        alphabet: Characters that a text may hold.
        lengths: Fewest and most characters; None: any number.
    """
    probabilities = alphabet.probabilities(logits)
    log = np.log(np.maximum(probabilities, 1e-9)).astype(np.float32)
    path = log.argmax(1)
    ids = collapsed(path)
    if lengths is not None and not lengths[0] <= len(ids) <= lengths[1]:
        fewest, most = lengths[0], min(lengths[1], MOST_CHARACTERS)
        path = _best_path(log, fewest, most)
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


def _best_path(log: Floats, fewest: int, most: int) -> Ids:
    """The most probable path of ``fewest`` to ``most`` characters (Viterbi).

    After column t, ``here[n, c]`` is the best path of n characters that ends in c (0: a blank):

        here'[n, 0] = log p(blank) + max_c here[n, c]
        here'[n, c] = log p(c) + max(here[n, c], max_{c' != c} here[n - 1, c'])
    """
    T, C = log.shape
    tried = np.concatenate([[0], 1 + np.flatnonzero(log[:, 1:].max(0) > np.log(_LEAST))])
    if len(tried) == 1:
        tried = np.arange(C)
    p, A = log[:, tried], len(tried)
    here = np.full((most + 1, A), _NEVER, np.float32)
    here[0, 0] = 0
    back = np.zeros((T, most + 1, A), np.int32)  # n * A + c of the state before
    states = np.arange((most + 1) * A).reshape(most + 1, A)
    for t in range(T):
        order = np.argsort(here, axis=1)
        first, second = order[:, -1], order[:, -2] if A > 1 else order[:, -1]
        rows = np.arange(most + 1)
        best, next_best = here[rows, first], here[rows, second]
        # From n - 1 characters in anything but c.
        other = np.where(first[:, None] == np.arange(A), second[:, None], first[:, None])
        value = np.where(first[:, None] == np.arange(A), next_best[:, None], best[:, None])
        entered = np.full_like(here, _NEVER)
        entered[1:] = value[:-1]
        came = np.zeros_like(states)
        came[1:] = states[:-1, :1] + other[:-1]
        stays = here >= entered
        new = np.where(stays, here, entered)
        back[t] = np.where(stays, states, came)
        new[:, 0] = best
        back[t, :, 0] = states[:, 0] + first
        here = new + p[t]
    ends = here[fewest:].max(1)
    count = fewest + int(ends.argmax())
    if here[count].max() < _NEVER / 2:  # fewer columns than characters
        count = int(np.flatnonzero(here.max(1) > _NEVER / 2)[-1])
    state = int(states[count, here[count].argmax()])
    path = np.zeros(T, np.int64)
    for t in range(T - 1, -1, -1):
        path[t] = tried[state % A]
        state = int(back[t].reshape(-1)[state])
    return path


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
