"""Patterns against Python's own regular expressions, and constrained texts against all texts."""

import itertools
import math
import re
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simgan_captcha.errors import ConfigError, RunError
from simgan_captcha.inference.constraints.automaton import of_pattern
from simgan_captcha.inference.constraints.texts import Constraints, best_texts, texts_of_scheme
from simgan_captcha.inference.reader import ImageReader
from simgan_captcha.inference.readings import Reading
from simgan_captcha.scheme import Scheme
from simgan_captcha.types import Floats, GreyImages, Ids

ALPHABET = "ab1"
LONGEST = 4
FIXED = Scheme(alphabet=ALPHABET, length=3, width=8, height=8)
VARYING = Scheme(alphabet=ALPHABET, length=(1, LONGEST), width=8, height=8)


def extended(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    few = st.integers(0, 3)
    groups = st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"({'|'.join(parts)})"),
        st.lists(inner, min_size=1, max_size=3).map("".join),
    )
    repeats = st.one_of(
        st.sampled_from(["?", "*", "+", "{,2}"]),
        few.map(lambda n: f"{{{n}}}"),
        st.tuples(few, few).map(lambda mn: f"{{{min(mn)},{max(mn)}}}"),
        few.map(lambda n: f"{{{n},}}"),
    )
    return st.one_of(groups, st.builds("(?:{}){}".format, inner, repeats))


PARTS = [
    "a",
    "b",
    "1",
    r"\d",
    r"\D",
    ".",
    "[ab]",
    "[^a]",
    "[a-z]",
    r"[\d-]",
    r"\w",
    "[]b]",
    "[^]1]",
]
PATTERNS = st.recursive(st.sampled_from(PARTS), extended, max_leaves=6)


def all_texts(longest: int = LONGEST) -> Iterator[str]:
    for length in range(longest + 1):
        yield from map("".join, itertools.product(ALPHABET, repeat=length))


@given(PATTERNS)
@settings(max_examples=150, deadline=None)
def test_a_pattern_accepts_what_python_matches(pattern: str) -> None:
    automaton = of_pattern(pattern, ALPHABET)
    for text in all_texts():
        ids = [ALPHABET.index(c) for c in text]
        assert automaton.accepts(ids) == bool(re.fullmatch(pattern, text)), text


def distributions(seed: int, scheme: Scheme) -> Floats:
    generator = np.random.default_rng(seed)
    drawn = generator.standard_normal((2, scheme.max_length, scheme.classes)) * 2
    each = np.exp(drawn)
    return np.asarray(each / each.sum(-1, keepdims=True), np.float32)


def ranked(slots: Floats, scheme: Scheme, allowed: Constraints) -> list[tuple[float, str]]:
    """All texts of a scheme that satisfy constraints, with their probabilities."""
    fewest, most = scheme.min_length, scheme.max_length
    if isinstance(allowed.length, tuple):
        fewest, most = max(fewest, allowed.length[0]), min(most, allowed.length[1])
    found = []
    for text in all_texts():
        fits = fewest <= len(text) <= most and set(text) <= set(allowed.alphabet or ALPHABET)
        if fits and (allowed.pattern is None or re.fullmatch(allowed.pattern, text)):
            ids = scheme.encode(text)
            found.append((math.prod(float(slots[i, k]) for i, k in enumerate(ids)), text))
    return sorted(found, reverse=True)


CONSTRAINTS = st.builds(
    Constraints,
    alphabet=st.sampled_from([None, "ab", "1", "1b"]),
    length=st.sampled_from([None, (1, 3), (3, 4), (2, 5)]),
    pattern=st.none() | PATTERNS.filter(lambda one: len(one) < 40),
    top=st.integers(1, 4),
)


@given(st.integers(0, 10_000), st.sampled_from([FIXED, VARYING]), CONSTRAINTS)
@settings(max_examples=150, deadline=None)
def test_the_most_probable_texts_are_found(seed: int, scheme: Scheme, allowed: Constraints) -> None:
    slots = distributions(seed, scheme)
    try:
        texts = texts_of_scheme(allowed, scheme)
    except ConfigError:
        for of_image in slots:
            assert not ranked(of_image, scheme, allowed)
        return
    for of_image, found in zip(
        slots, best_texts(slots, texts, scheme.blank, allowed.top), strict=True
    ):
        expected = ranked(of_image, scheme, allowed)[: allowed.top]
        assert [scheme.decode(ids) for ids in found] == [text for _, text in expected]


def reader(scheme: Scheme, slots: Floats) -> ImageReader:
    def recognize(images: GreyImages) -> tuple[Ids, Floats]:
        return slots.argmax(-1)[: len(images)], slots.max(-1)[: len(images)]

    return ImageReader(scheme, recognize, lambda images: slots[: len(images)], threads=1)


IMAGE = np.zeros((8, 8), np.uint8)


@given(st.integers(0, 10_000), st.integers(2, 6))
@settings(max_examples=40, deadline=None)
def test_alternatives_never_change_the_reading(seed: int, top: int) -> None:
    of = reader(VARYING, distributions(seed, VARYING))
    alone, read = of.read(IMAGE), of.read(IMAGE, top=top)
    assert (read.text, read.confidence) == (alone.text, alone.confidence)
    texts = [read.text, *(other.text for other in read.alternatives)]
    assert len(set(texts)) == len(texts) == top
    shares = [other.confidence for other in read.alternatives]
    assert shares == sorted(shares, reverse=True)


def test_confidence_is_the_share_of_all_texts() -> None:
    slots = np.array([[[0.6, 0.3, 0.1]] * 3], np.float32)
    read = reader(FIXED, slots).read(IMAGE, pattern=r"a[b1]\d", top=2)
    assert read.text == "ab1"
    assert read.confidence == pytest.approx(0.6 * 0.3 * 0.1)
    assert read.character_confidence == pytest.approx((0.6, 0.3, 0.1))
    assert [other.text for other in read.alternatives] == ["a11"]
    assert read.alternatives[0].confidence == pytest.approx(0.6 * 0.1 * 0.1)


def test_alike_characters_count_as_one() -> None:
    scheme = Scheme(alphabet="ob", equivalents=("o0",), length=2, width=8, height=8)
    slots = np.array([[[0.4, 0.6], [0.4, 0.6]]], np.float32)
    assert reader(scheme, slots).read(IMAGE, pattern=r"\db").text == "ob"
    assert reader(scheme, slots).read(IMAGE, alphabet="0").text == "oo"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alphabet": "abx"}, "out of 'ab1', which the reader knows, got 'x' in it; leave"),
        ({"alphabet": ""}, "empty one; name the characters"),
        ({"length": 4}, "expected a length of 3, which.*got 4; change it"),
        ({"length": (3, 2)}, "expected a length of 3, which the reader reads, got 3 to 2"),
        ({"pattern": "abx"}, r"at x: x is none of the characters.*'ab1'; change the pattern"),
        ({"pattern": "[A-Z]ab"}, r"\[A-Z\] is none"),
        (
            {"pattern": r"\d\d", "alphabet": "ab"},
            "some text matches.*change the pattern, the alpha",
        ),
        ({"pattern": "ab"}, "some text matches, got ab, which no text"),
        ({"top": 0}, "expected 1 to 100 texts"),
    ],
)
def test_what_the_reader_cannot_read_is_said(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        reader(FIXED, distributions(0, FIXED)).read(IMAGE, **options)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(a", r"at its end: a group is not closed; add \)"),
        ("a)", r"at \): this \) closes no group; leave it out"),
        ("[ab", "the class is not closed"),
        ("^ab1$", r"covers the whole text; leave out \^"),
        ("a**", r"repeated twice; write \\\* for"),
        ("a{2}{2}", "repeated twice"),
        ("{2}", "nothing to repeat"),
        ("a{x}", r"expected \{n\} or \{m,n\}"),
        ("a{3,2}", "m at most n"),
        (r"(a)\1", r"of the letters after \\, only"),
        (r"\bab", r"of the letters after \\, only"),
        ("(?=a)b", r"only \(\?:...\) is known"),
        ("[b-a]", "bad character range"),
        ("[[a]", "Possible nested set"),
        ("(" * 60 + "a" + ")" * 60, "nested more than 50"),
        ("a" * 1001, "at most 1000 characters"),
        ("((.{64}){64}){64}", "at most 2000 states"),
        ("((){1000}){1000}", "at most 2000 states"),
        ("(a|b)*a(a|b){20}", "at most 2000 states"),
    ],
)
def test_patterns_that_cannot_be_are_refused(pattern: str, message: str) -> None:
    start = time.monotonic()
    with pytest.raises(ConfigError, match=message):
        of_pattern(pattern, ALPHABET)
    assert time.monotonic() - start < 10


@given(st.text("ab1[](){}|?*+\\d^$.-,:2", max_size=12))
@settings(max_examples=300, deadline=None)
def test_any_pattern_means_what_python_says_or_is_refused(pattern: str) -> None:
    try:
        automaton = of_pattern(pattern, ALPHABET)
    except ConfigError:
        return
    for text in all_texts(3):
        ids = [ALPHABET.index(c) for c in text]
        assert automaton.accepts(ids) == bool(re.fullmatch(pattern, text)), text


def test_a_reader_without_probabilities_reads_without_constraints_only() -> None:
    slots = distributions(0, FIXED)
    of = reader(FIXED, slots)
    of.probabilities = None
    assert isinstance(of.read(IMAGE), Reading)
    with pytest.raises(RunError, match="only the most probable; give ImageReader"):
        of.read(IMAGE, pattern="ab1")
