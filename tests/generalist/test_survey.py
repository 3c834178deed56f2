"""Conclusions from characters that a reader found."""

from string import ascii_lowercase, digits

import numpy as np

from simgan_captcha.generalist.characters import CHARACTERS, MOST_CHARACTERS
from simgan_captcha.generalist.reader import FoundText
from simgan_captcha.generalist.survey import Survey, estimated_shares, survey


def found(texts: list[str], confidence: float = 0.95) -> list[FoundText]:
    return [mixed({text: 1.0}, confidence) for text in texts]


def mixed(weights: dict[str, float], confidence: float = 0.95) -> FoundText:
    """One image that may show any of some texts; the first is the most probable."""
    lengths, text = np.full(MOST_CHARACTERS + 1, 1e-4), next(iter(weights))
    characters = np.full((len(text), len(CHARACTERS)), (1 - confidence) / (len(CHARACTERS) - 1))
    for place, character in enumerate(text):
        characters[place, CHARACTERS.index(character)] = confidence
    for one, weight in weights.items():
        lengths[len(one)] += weight
    return FoundText(text, characters.astype(np.float32), lengths / lengths.sum())


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
    assert seen.lengths == (4, 4)
    assert seen.length_share > 0.99
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


def test_a_length_that_explains_every_image_wins() -> None:
    # A third of the images lose a character, but four characters are their second choice.
    texts = [
        mixed({t[1:]: 0.6, t: 0.4}) if i % 3 == 0 else mixed({t: 1.0})
        for i, t in enumerate(drawn(digits, [4]))
    ]
    assert survey(texts).lengths == (4, 4)


def test_a_letter_that_is_only_a_second_choice_is_left_out() -> None:
    # Half of the ones look more like an 'l' than like a one.
    texts = drawn("123456789abcdefghk", [4])
    images = found(texts)
    one, el = CHARACTERS.index("1"), CHARACTERS.index("l")
    for number, (text, image) in enumerate(zip(texts, images, strict=True)):
        for place, character in enumerate(text):
            if character == "1":
                image.characters[place, [one, el]] = (0.9, 0.1) if number % 10 else (0.4, 0.6)
    seen = survey(images)
    assert "1" in seen.alphabet
    assert "l" not in seen.alphabet


def test_a_letter_that_the_network_takes_for_another_is_kept() -> None:
    # Every 'r' is read as an 'n', with some doubt.
    images = found(drawn("abcdefghkmnprstuvwxyz".replace("r", "n"), [4], images=400))
    n, r = CHARACTERS.index("n"), CHARACTERS.index("r")
    for number, image in enumerate(images):
        for place, character in enumerate(image.text):
            if character == "n" and number % 2:
                image.characters[place, [n, r]] = (0.55, 0.45)
    assert "r" in survey(images).alphabet


def test_shares_are_those_of_greatest_likelihood() -> None:
    # Classes 0 and 1 are confused in three of ten cases; the third is never needed.
    seen = np.array([[0.6, 0.3, 0.1]] * 55 + [[0.3, 0.6, 0.1]] * 45)
    shares = estimated_shares(seen)
    # Of two classes, s(0) maximises 55 log(0.3 + 0.3 s) + 45 log(0.6 - 0.3 s): s = 0.65.
    np.testing.assert_allclose(shares, [0.65, 0.35, 0.0], atol=0.01)


def test_images_without_text_give_no_alphabet() -> None:
    assert survey(found(["", ""])).alphabet == ""
    assert survey(found(["12", "34", ""])).lengths == (2, 2)
