"""Biases move a boundary that is in the wrong place, and leave real frequencies alone."""

import numpy as np
import pytest

from simgan_captcha.generalist.decoding import Alphabet
from simgan_captcha.generalist.specialization.class_balance import (
    balanced_classes,
    balancing_biases,
)
from simgan_captcha.types import Doubles, Floats

ALL = np.ones(4, np.bool_)


def read(counts: list[int], margins: list[float], wrong: dict[int, int] | None = None) -> Floats:
    """Probabilities of characters: so many of each class, read with a margin in nats.

    ``wrong`` names classes that are read as another.
    """
    rows = []
    for truth, (count, margin) in enumerate(zip(counts, margins, strict=True)):
        likeliest = (wrong or {}).get(truth, truth)
        logits = np.full(len(counts), -6.0)
        logits[truth] = 0.0
        logits[likeliest] = margin
        rows += [logits] * count
    weights = np.exp(np.array(rows))
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)


def chosen(probabilities: Floats, biases: Doubles) -> list[int]:
    best = (probabilities * np.exp(biases)).argmax(1)
    return [int(count) for count in np.bincount(best, minlength=len(biases))]


def test_a_class_that_is_taken_for_another_by_a_little_is_told_from_it() -> None:
    probabilities = read([100, 100, 100, 100], [6, 1.0, 6, 6], wrong={1: 0})
    assert chosen(probabilities, np.zeros(4)) == [200, 0, 100, 100]
    assert chosen(probabilities, balancing_biases(probabilities, ALL, 2.0)) == [100] * 4


@pytest.mark.parametrize("counts", [[300, 100, 100, 100], [0, 100, 100, 100], [200, 100, 30, 70]])
def test_real_frequencies_stay(counts: list[int]) -> None:
    """A letter three times as frequent as others, one that never occurs, and uneven ones."""
    probabilities = read(counts, [4, 4, 4, 4])
    assert chosen(probabilities, balancing_biases(probabilities, ALL, 2.0)) == counts


def test_signs_have_frequencies_of_their_own() -> None:
    """A '+' in every sum is as uncertain as the digits, and stays four times as frequent."""
    balanced = balanced_classes("12+3")
    assert balanced.tolist() == [True, True, False, True]
    probabilities = read([100, 100, 400, 100], [6, 1.0, 0.5, 6], wrong={1: 0})
    biases = balancing_biases(probabilities, balanced, 2.0)
    assert chosen(probabilities, biases) == [100, 100, 400, 100]
    assert biases[2] == 0
    assert not balancing_biases(probabilities, balanced_classes("+-*/"), 2.0).any()


def test_biases_are_bounded_and_zero_without_strength() -> None:
    probabilities = read([500, 1, 1, 1], [1, 1, 1, 1])
    assert np.abs(balancing_biases(probabilities, ALL, 50.0)).max() <= 2
    assert not balancing_biases(probabilities, ALL, 0.0).any()


def test_an_alphabet_adds_biases_to_its_characters_alone() -> None:
    alphabet = Alphabet("ab")
    logits = np.random.default_rng(1).standard_normal((5, 77)).astype(np.float32)
    plain = alphabet.probabilities(logits)
    biased = alphabet.with_biases(np.array([1.0, 0.0])).probabilities(logits)
    np.testing.assert_allclose(biased[:, 0], plain[:, 0])
    np.testing.assert_allclose(biased[:, 1] / biased[:, 2], np.e * plain[:, 1] / plain[:, 2], 1e-4)
    np.testing.assert_array_equal(alphabet.probabilities(logits), plain)
