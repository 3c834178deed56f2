"""Decoding against every path there is, and constraints that hold for any logits."""

import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simgan_captcha.errors import ConfigError
from simgan_captcha.generalist.characters import CHARACTERS, CLASSES, decode, encode
from simgan_captcha.generalist.decoding import (
    Alphabet,
    PossibleTexts,
    ctc_log_probability,
    decode_columns,
    other_texts,
)
from simgan_captcha.inference.constraints.automaton import of_pattern
from simgan_captcha.types import Floats


def logits_of(seed: int, columns: int, spread: float = 3.0) -> Floats:
    generator = np.random.default_rng(seed)
    return (generator.standard_normal((columns, CLASSES)) * spread).astype(np.float32)


def collapse(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(k for k, _ in itertools.groupby(path) if k != 0)


def test_texts_and_ids_go_back_and_forth() -> None:
    assert decode(encode(CHARACTERS)) == CHARACTERS


@given(st.integers(0, 10_000), st.integers(2, 5))
@settings(max_examples=40, deadline=None)
def test_probability_of_a_text_is_the_sum_over_its_paths(seed: int, columns: int) -> None:
    log = np.log(Alphabet("ab").probabilities(logits_of(seed, columns)))
    by_text: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(3), repeat=columns):
        probability = math.exp(sum(log[t, k] for t, k in enumerate(path)))
        by_text[collapse(path)] = by_text.get(collapse(path), 0.0) + probability
    for ids, probability in by_text.items():
        assert math.exp(ctc_log_probability(log, ids)) == pytest.approx(probability, rel=1e-4)


@given(st.integers(0, 10_000), st.integers(3, 6), st.integers(1, 3), st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_the_best_path_of_a_length_is_found(
    seed: int, columns: int, fewest: int, more: int
) -> None:
    alphabet, logits = Alphabet("abc"), logits_of(seed, columns)
    log = np.log(np.maximum(alphabet.probabilities(logits), 1e-9))
    best, found = -math.inf, ""
    for path in itertools.product(range(4), repeat=columns):
        ids = collapse(path)
        score = sum(log[t, k] for t, k in enumerate(path))
        if fewest <= len(ids) <= fewest + more and score > best:
            best, found = score, "".join("abc"[k - 1] for k in ids)
    assert (
        decode_columns(logits, PossibleTexts.of_lengths(alphabet, (fewest, fewest + more))).text
        == found
    )


@given(
    st.integers(0, 10_000),
    st.integers(12, 40),
    st.sets(st.sampled_from(CHARACTERS), min_size=2, max_size=12),
    st.integers(1, 5),
)
@settings(max_examples=60, deadline=None)
def test_any_text_keeps_to_alphabet_and_length(
    seed: int, columns: int, characters: set[str], length: int
) -> None:
    alphabet = "".join(sorted(characters))
    decoded = decode_columns(
        logits_of(seed, columns),
        PossibleTexts.of_lengths(Alphabet(alphabet), (length, length)),
    )
    assert len(decoded.text) == length
    assert set(decoded.text) <= set(alphabet)
    assert list(decoded.columns) == sorted(set(decoded.columns))
    assert all(0 <= c <= 1 for c in decoded.confidences)
    assert 0 <= decoded.confidence <= 1


PATTERNS = ["[ab]c?", "a+", "(ab|ca)b*", "c{2}", "[^a]{1,2}", "(a|b){3}", "a?b?c?"]


def by_alignment(log: Floats, columns: int) -> dict[str, float]:
    """For each text of abc the log probability of its best alignment."""
    best: dict[str, float] = {}
    for path in itertools.product(range(4), repeat=columns):
        text = "".join("abc"[k - 1] for k in collapse(path))
        score = float(sum(log[t, k] for t, k in enumerate(path)))
        best[text] = max(score, best.get(text, -math.inf))
    return best


@given(st.integers(0, 10_000), st.integers(4, 6), st.sampled_from(PATTERNS), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_the_best_texts_of_a_pattern_are_found(
    seed: int, columns: int, pattern: str, others: int
) -> None:
    alphabet, logits = Alphabet("abc"), logits_of(seed, columns)
    log = np.log(np.maximum(alphabet.probabilities(logits), 1e-9))
    ranked = sorted(
        ((score, text) for text, score in by_alignment(log, columns).items()), reverse=True
    )
    expected = [text for _, text in ranked if re.fullmatch(pattern, text)]
    possible = PossibleTexts(alphabet, of_pattern(pattern, "abc"))
    first = decode_columns(logits, possible).text
    assert first == expected[0]
    found = other_texts(logits, possible, first, others)
    assert sorted(text for text, _ in found) == sorted(expected[1 : 1 + others])
    for text, confidence in found:
        ids = ["abc".index(c) + 1 for c in text]
        assert confidence == pytest.approx(math.exp(ctc_log_probability(log, ids)), rel=1e-3)
    assert found == sorted(found, key=lambda one: -one[1])


def test_the_other_case_counts_where_the_alphabet_lacks_it() -> None:
    logits = np.zeros((3, CLASSES), np.float32)
    logits[:, 0] = 8
    logits[1, [0, *encode("A")]] = [0, 8]
    assert decode_columns(logits, PossibleTexts.of_lengths(Alphabet("ab"))).text == "a"
    assert decode_columns(logits, PossibleTexts.of_lengths(Alphabet("aA"))).text == "A"


def test_characters_outside_the_alphabet_do_not_become_blanks() -> None:
    logits = np.zeros((3, CLASSES), np.float32)
    logits[:, 0] = 8
    logits[1, [0, *encode("O"), *encode("0")]] = [0, 9, 6]
    decoded = decode_columns(logits, PossibleTexts.of_lengths(Alphabet("0123456789")))
    assert decoded.text == "0"
    assert decoded.confidence > 0.9


@pytest.mark.parametrize("alphabet", ["", "aa", "aä"])
def test_an_alphabet_that_cannot_be_is_refused(alphabet: str) -> None:
    with pytest.raises(ConfigError, match="expected an alphabet"):
        Alphabet(alphabet)
