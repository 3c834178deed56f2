"""Constraints on texts, and the most probable texts of a recognizer's slots that satisfy them.

Shapes: N images, L slots, K classes, S states of an automaton, R texts of an image.
"""

from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from simgan_captcha.errors import ConfigError
from simgan_captcha.inference.constraints.automaton import Automaton, both, of_lengths, of_pattern
from simgan_captcha.scheme import Length, Scheme, least_and_greatest, length_in_words
from simgan_captcha.shown import shortened
from simgan_captcha.types import Doubles, Floats, Ids

MOST_TEXTS = 100
"""Greatest number of texts of an image."""


@dataclass(frozen=True)
class Constraints:
    """What texts may be, and how many are wanted of each image."""

    alphabet: str | None = None
    """Characters that texts may hold; None: all that the reader knows."""
    length: Length | None = None
    """Number of characters, or the fewest and the most; None: any that the reader knows."""
    pattern: str | None = None
    """Pattern that texts match as a whole, such as ``[A-Z]{2}\\d{4}``, see `pattern.parse`."""
    top: int = 1
    """Number of texts: the reading and its alternatives."""

    def __post_init__(self) -> None:
        if not 1 <= self.top <= MOST_TEXTS:
            raise ConfigError(f"expected 1 to {MOST_TEXTS} texts of an image, got {self.top}")

    @property
    def any_text(self) -> bool:
        """Whether every text satisfies them."""
        return self.alphabet is None and self.length is None and self.pattern is None


NONE = Constraints()


class Asked(TypedDict, total=False):
    """The fields of `Constraints` as keyword arguments."""

    alphabet: str | None
    length: Length | None
    pattern: str | None
    top: int


def texts_of_scheme(constraints: Constraints, scheme: Scheme) -> Automaton:
    """The texts of a scheme that satisfy constraints.

    Raises:
        ConfigError: The alphabet or the pattern has a character that the scheme lacks, the length
            is another, or no text is left.
    """
    allowed = set(scheme.alphabet)
    if constraints.alphabet is not None:
        allowed = set(scheme.fold(constraints.alphabet))
        if unknown := "".join(sorted(allowed - set(scheme.alphabet))):
            raise ConfigError(
                f"expected an alphabet out of {shortened(scheme.alphabet)!r}, which the reader "
                f"knows, got {unknown!r} in it; leave this out, or learn a reader that knows it"
            )
        if not allowed:
            raise ConfigError("expected an alphabet, got an empty one; name the characters")
    fewest, most = _lengths(constraints.length, scheme)
    texts = of_lengths(len(scheme.alphabet), fewest, most)
    known = np.array([c in allowed for c in scheme.alphabet])
    texts = Automaton(np.where(known, texts.moves, -1), texts.accepting)
    if constraints.pattern is None:
        return texts
    groups = {group[0]: group for group in scheme.equivalents}
    forms = [groups.get(c, c) for c in scheme.alphabet]
    return matching_texts(constraints.pattern, of_pattern(constraints.pattern, forms), texts)


def matching_texts(pattern: str, matching: Automaton, texts: Automaton) -> Automaton:
    """The texts that belong to the set of a pattern, too.

    Raises:
        ConfigError: There are none.
    """
    found = both(matching, texts)
    if found.empty:
        raise ConfigError(
            f"expected a pattern that some text matches, got {pattern}, which no text matches "
            "that has the alphabet and the length that were given or that the reader reads; "
            "change the pattern, the alphabet or the length"
        )
    return found


def _lengths(length: Length | None, scheme: Scheme) -> tuple[int, int]:
    known = (scheme.min_length, scheme.max_length)
    if length is None:
        return known
    fewest, most = least_and_greatest(length)
    both = max(fewest, known[0]), min(most, known[1])
    if fewest > most or both[0] > both[1]:
        raise ConfigError(
            f"expected a length of {length_in_words(known)}, which the reader reads, got "
            f"{length_in_words((fewest, most))}; change it, or learn a reader of that length"
        )
    return both


def best_texts(
    probabilities: Floats, texts: Automaton, blank: int | None, top: int
) -> list[list[list[int]]]:
    """The most probable texts of a set, most probable first.

    The slots are independent: a text c_1 ... c_n has the probability

        p_1(c_1) ... p_n(c_n) p_{n+1}(blank) ... p_L(blank).

    So the best text that leads to state s after l slots follows from those of l - 1 slots:

        best_l(s) = max best_{l-1}(s') p_l(c)

    The maximum is over all states s' and characters c that lead from s' to s.

    With R instead of one best text of each state, this gives the R best texts. None comes twice,
    because the automaton is deterministic.

    Args:
        probabilities: (N, L, K).
        texts: Set of texts.
        blank: Class of an empty slot; None: all texts have L characters.
        top: R, the greatest number of texts.

    Returns:
        For each image its texts, each as L class ids. There are fewer than R if the set has fewer.
    """
    N, L, _ = probabilities.shape
    log = np.log(np.maximum(probabilities, 1e-30)).astype(np.float64)
    edges, ends = _edges(texts, blank)
    score = np.full((N, len(ends), top), -np.inf)
    score[:, 0, 0] = 0
    came: list[Ids] = []  # of each slot (N, S, R): which edge and which text before
    for slot in range(L):
        after = np.full_like(score, -np.inf)
        chosen = np.zeros(score.shape, np.int64)
        for state, (sources, characters) in edges.items():
            tried = score[:, sources] + log[:, slot, characters, None]
            after[:, state], chosen[:, state] = _greatest(tried.reshape(N, -1), top)
        came.append(chosen)
        score = after
    final, place = _greatest(score[:, ends].reshape(N, -1), top)
    at = np.flatnonzero(ends)
    found = list[list[list[int]]]()
    for image in range(N):
        of_image = list[list[int]]()
        for rank in np.flatnonzero(final[image] > -np.inf).tolist():
            ids, state, number = (
                [0] * L,
                int(at[place[image, rank] // top]),
                place[image, rank] % top,
            )
            for slot in range(L - 1, -1, -1):
                edge, number = divmod(int(came[slot][image, state, number]), top)
                sources, characters = edges[state]
                ids[slot], state = int(characters[edge]), int(sources[edge])
            of_image.append(ids)
        found.append(of_image)
    return found


def _edges(texts: Automaton, blank: int | None) -> tuple[dict[int, tuple[Ids, Ids]], Ids]:
    """Edges into each state, as their sources and classes, and which states (S,) are final.

    One more state stands for empty slots after the end of a text.
    """
    edges = {}
    S = len(texts.moves)
    for state in range(S):
        sources, characters = np.nonzero(texts.moves == state)
        if len(sources):
            edges[state] = sources, characters
    ends = np.append(texts.accepting, blank is not None)
    if blank is not None:
        sources = np.flatnonzero(ends)
        edges[S] = sources, np.full(len(sources), blank)
    return edges, ends


def _greatest(values: Doubles, count: int) -> tuple[Doubles, Ids]:
    """The greatest values of each row (N, M) and their places, both (N, count)."""
    if count == 1:
        place = values.argmax(1)[:, None]
    else:
        place = np.argsort(-values, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(values, place, 1), place
