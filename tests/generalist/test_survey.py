"""Conclusions from characters that a reader found."""

from string import ascii_lowercase, digits

import numpy as np

from simgan_captcha.generalist.reader import FoundCharacter
from simgan_captcha.generalist.survey import Survey, survey


def found(texts: list[str], confidence: float = 0.95) -> list[list[FoundCharacter]]:
    return [
        [FoundCharacter(c, confidence, 20.0 * i + 15, 25.0, 20.0, 0.0) for i, c in enumerate(text)]
        for text in texts
    ]


def surveyed(texts: list[str]) -> Survey:
    return survey(found(texts))


def drawn(alphabet: str, lengths: list[int], images: int = 300) -> list[str]:
    generator = np.random.default_rng(1)
    return [
        "".join(generator.choice(list(alphabet), size=generator.choice(lengths)))
        for _ in range(images)
    ]


def test_digits_of_one_length() -> None:
    seen = surveyed(drawn(digits, [4]))
    assert (seen.lengths, seen.length_share) == ((4, 4), 1.0)
    assert seen.groups == ("digits",)
    assert seen.alphabet == digits
    assert seen.unseen == ""


def test_characters_that_a_site_leaves_out_are_left_out() -> None:
    seen = surveyed(drawn("12345678abcdefhknpqxyz", [4]))
    assert set(seen.alphabet) == set("12345678abcdefhknpqxyz")
    assert set(seen.unseen) == (set(digits) | set(ascii_lowercase)) - set(seen.alphabet)


def test_few_images_leave_nothing_out() -> None:
    assert surveyed(drawn(digits, [4], images=10)).alphabet == digits


def test_several_lengths_and_a_sign() -> None:
    generator = np.random.default_rng(2)
    texts = [f"{generator.integers(1, 30)}+{generator.integers(1, 30)}" for _ in range(200)]
    seen = surveyed(texts)
    assert seen.lengths == (3, 5)
    assert "+" in seen.alphabet
    assert set(seen.alphabet) == {*digits, "+"}


def test_look_alikes_of_the_other_case_do_not_make_a_group() -> None:
    texts = [t.replace("c", "C").replace("o", "O") for t in drawn(ascii_lowercase, [5])]
    seen = surveyed(texts)
    assert seen.groups == ("lower-case letters",)
    assert {"c", "o"} <= set(seen.alphabet)


def test_a_few_misread_lengths_do_not_make_a_range() -> None:
    texts = [t if i % 10 else t + "1" for i, t in enumerate(drawn(digits, [6]))]
    assert surveyed(texts).lengths == (6, 6)


def test_images_without_text_give_no_alphabet() -> None:
    assert survey([[], []]).alphabet == ""
    assert survey([*found(["12", "34"]), []]).lengths == (2, 2)
