"""Weaknesses of the texts: repeats, few possible texts, and unevenly frequent characters."""

import math
from collections import Counter
from collections.abc import Sequence

from simgan_captcha.evaluation.audit.verdict import Finding, Severity
from simgan_captcha.scheme import Scheme, length_in_words

_GUESSED = 100
"""Number of possible texts at which a blind guess is right in 1 %. Such a captcha is broken."""
_SMALL = 10_000
"""Number of possible texts that a program can try in hours if there is no limit on tries."""
_LARGE = 1_000_000
"""Number of possible texts from which there is no finding."""
_FEWEST = 100
"""Smallest number of readings for a test of character frequencies."""
_SURPRISE = 8.0
"""Number of standard deviations of the sum of squares from which characters are uneven."""
_UNEVEN = 1.5
"""Factor between the frequency of a character and the expected one, in either direction, from which
characters are uneven. Errors of a reader alone cause a smaller factor."""


def text_findings(texts: Sequence[str], scheme: Scheme) -> list[Finding]:
    """Find weaknesses in the way texts are drawn, from readings.

    Args:
        texts: Texts of readings, most of them correct.
        scheme: Scheme with alphabet and length.
    """
    repeated = _repeated_texts(texts, scheme)
    return [*repeated, *_small_space(texts, scheme), *_uneven_characters(texts, scheme)]


def text_space(scheme: Scheme) -> int:
    """Number of texts that alphabet and length allow.

    Example:
        >>> text_space(Scheme(alphabet="0123456789", length=4, width=70, height=30))
        10000
    """
    lengths = range(scheme.min_length, scheme.max_length + 1)
    return sum(len(scheme.alphabet) ** length for length in lengths)


def space_from_repeats(texts: Sequence[str]) -> tuple[float, float, float] | None:
    """Estimate the number of possible texts from repeats, with a 95 % interval.

    If N texts are drawn uniformly from S possible texts, N (N - 1) / 2S pairs are equal on average
    (birthday problem). The result is None if fewer than five pairs are equal.
    """
    pairs = equal_pairs(texts)
    if pairs < 5:
        return None
    all_pairs = len(texts) * (len(texts) - 1) / 2
    spread = 1.96 * math.sqrt(pairs)
    return all_pairs / pairs, all_pairs / (pairs + spread), all_pairs / max(1, pairs - spread)


def equal_pairs(texts: Sequence[str]) -> int:
    """Number of pairs of equal texts."""
    return sum(count * (count - 1) // 2 for count in Counter(texts).values())


def _repeated_texts(texts: Sequence[str], scheme: Scheme) -> list[Finding]:
    pairs = equal_pairs(texts)
    expected = len(texts) * (len(texts) - 1) / 2 / text_space(scheme)
    if len(texts) < 2 or pairs <= 2 * expected + 4 * math.sqrt(expected) + 2:
        return []
    (text, times), *_ = Counter(texts).most_common(1)
    return [
        Finding(
            "Texts repeat more often than chance",
            Severity.medium,
            f"{pairs} pairs of {len(texts)} texts are equal; alphabet and length would give about "
            f"{expected:.1f}. The commonest text, {text!r}, was read {times} times.",
            "Draw every character of every text from a secure random source, not from a list of "
            "words or a store of ready images.",
            effect=times / len(texts),
        )
    ]


def _small_space(texts: Sequence[str], scheme: Scheme) -> list[Finding]:
    allowed, seen = text_space(scheme), space_from_repeats(texts)
    size = min(allowed, round(seen[2])) if seen else allowed
    if size >= _LARGE:
        return []
    severity = Severity.low
    if size <= _SMALL:
        severity = Severity.high if size <= _GUESSED else Severity.medium
    evidence = (
        f"{length_in_words(scheme.length)} of {len(scheme.alphabet)} characters make {allowed:,} "
        f"texts: a blind guess is right once in {allowed:,} tries."
    )
    if seen:
        evidence += (
            f" The repeats among {len(texts):,} texts that were read are those of about "
            f"{seen[0]:,.0f} texts ({seen[1]:,.0f} to {seen[2]:,.0f})."
        )
    return [
        Finding(
            "There are few texts",
            severity,
            evidence,
            f"Use longer texts or more characters: six of 32 characters make {32**6:,} texts.",
            effect=1 / size,
        )
    ]


def _uneven_characters(texts: Sequence[str], scheme: Scheme) -> list[Finding]:
    counts = Counter(character for text in texts for character in text)
    total, classes = counts.total(), len(scheme.alphabet)
    if len(texts) < _FEWEST or total < 10 * classes:
        return []
    expected = total / classes
    squares = sum((counts[c] - expected) ** 2 / expected for c in scheme.alphabet)
    often = max(scheme.alphabet, key=lambda c: counts[c])
    seldom = min(scheme.alphabet, key=lambda c: counts[c])
    far = counts[often] > _UNEVEN * expected or counts[seldom] * _UNEVEN < expected
    if not far or (squares - classes + 1) / math.sqrt(2 * (classes - 1)) < _SURPRISE:
        return []
    guess, share = best_guess(texts)
    return [
        Finding(
            "Characters are unevenly frequent",
            Severity.medium if share * text_space(scheme) >= 10 else Severity.low,
            f"{often!r} makes up {counts[often] / total:.1%} of the characters that were read and "
            f"{seldom!r} {counts[seldom] / total:.1%}; evenly drawn, each would make up "
            f"{1 / classes:.1%}. The best guess, {guess!r}, is right "
            f"about once in {1 / share:,.0f} tries.",
            "Draw every character with the same probability. If the reader confuses some "
            "characters, part of this is its error: look at the report.",
            effect=share,
        )
    ]


def best_guess(texts: Sequence[str]) -> tuple[str, float]:
    """The most probable text, and its probability.

    There are two candidates. One is the most frequent text, if it was read at least five times. The
    other combines the most frequent character at each position, among texts of the most frequent
    length. The result is the more probable candidate.
    """
    length, times = Counter(map(len, texts)).most_common(1)[0]
    guess, share = "", times / len(texts)
    for place in zip(*(text for text in texts if len(text) == length), strict=True):
        character, count = Counter(place).most_common(1)[0]
        guess, share = guess + character, share * count / times
    text, count = Counter(texts).most_common(1)[0]
    if count >= 5 and count / len(texts) > share:
        return text, count / len(texts)
    return guess, share
