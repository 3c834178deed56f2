import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from simgan_captcha import HACKMIT_2017
from simgan_captcha.errors import ConfigError, SchemeError
from simgan_captcha.scheme import Scheme, check_scheme, load_scheme


@st.composite
def schemes_and_texts(draw: st.DrawFn) -> tuple[Scheme, str]:
    characters = st.characters(
        codec="utf-8", exclude_categories=["M", "Cc", "Cf", "Zl", "Zp"]
    ).filter(lambda character: unicodedata.bidirectional(character) not in ("R", "AL"))
    alphabet = "".join(draw(st.lists(characters, min_size=2, max_size=60, unique=True)))
    length = draw(st.integers(1, 12))
    text = draw(st.text(st.sampled_from(alphabet), min_size=length, max_size=length))
    return Scheme(alphabet=alphabet, length=length, width=100, height=50), text


@given(schemes_and_texts())
def test_a_text_comes_back_from_its_ids(case: tuple[Scheme, str]) -> None:
    scheme, text = case
    ids = scheme.encode(text)
    assert all(0 <= i < len(scheme.alphabet) for i in ids)
    assert scheme.decode(ids) == text


@pytest.mark.parametrize("text", ["", "abc", "abcde"])
def test_a_text_of_another_length_is_refused(text: str) -> None:
    with pytest.raises(SchemeError, match="expected a text of 4 characters"):
        HACKMIT_2017.encode(text)


def test_the_characters_an_alphabet_lacks_are_named() -> None:
    with pytest.raises(SchemeError, match="lacks '-B'"):
        HACKMIT_2017.encode("a-Bc")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alphabet": "abca"}, "repeats 'a'"),
        ({"alphabet": "a"}, "at least 2"),
        ({"length": 0}, "a number from 1 to 64"),
        ({"width": 7}, "greater than or equal to 8"),
        ({"height": 5000}, "less than or equal to 4096"),
        ({"colour": "red"}, "Extra inputs"),
        ({"length": 51}, "at least 2 pixels of width for each character, got 100 pixels for 51"),
        ({"width": 2001, "height": 2000}, "at most 4000000 pixels, got 2001x2000"),
    ],
)
def test_a_scheme_that_cannot_be_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Scheme.model_validate(HACKMIT_2017.model_dump() | change)


VARIABLE = Scheme(alphabet="abc1", length=(2, 4), width=48, height=24)


@given(text=st.text("abc1", min_size=2, max_size=4))
def test_texts_of_several_lengths_fill_their_slots(text: str) -> None:
    ids = VARIABLE.encode(text)
    assert len(ids) == 4
    assert ids[len(text) :] == [VARIABLE.blank] * (4 - len(text))
    assert VARIABLE.decode(ids) == text


@pytest.mark.parametrize("text", ["", "a", "abcab"])
def test_texts_out_of_the_range_of_lengths(text: str) -> None:
    with pytest.raises(SchemeError, match="2 to 4 characters"):
        VARIABLE.encode(text)


def test_one_length_has_no_class_of_its_own_for_nothing() -> None:
    same = VARIABLE.model_copy(update={"length": 4})
    assert same.blank is None
    assert same.classes == 4
    assert VARIABLE.classes == 5
    for wrong in ((3, 2), (0, 2), 65, (1, 2, 3), (1, True), 2.5, "2"):
        with pytest.raises(ValidationError, match=r"least and the greatest number, as \[4, 6\]"):
            Scheme.model_validate({"alphabet": "ab", "length": wrong, "width": 48, "height": 24})


def test_characters_that_are_alike_count_as_one() -> None:
    scheme = Scheme(alphabet="abo1", equivalents=("o0Q", "1l"), length=4, width=60, height=20)
    assert scheme.fold("a0lQ") == "ao1o"
    assert scheme.encode("a0lQ") == scheme.encode("ao1o") == [0, 2, 3, 2]
    assert scheme.decode([0, 2, 3, 2]) == "ao1o"
    assert HACKMIT_2017.fold("a0l1") == "a0l1"


@pytest.mark.parametrize("equivalents", [("o",), ("oo",), ("o0", "b0"), ("o1",), ("x0",), ("",)])
def test_what_cannot_be_alike_is_refused(equivalents: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="equivalents: expected"):
        Scheme(alphabet="abo1", equivalents=equivalents, length=4, width=60, height=20)


@pytest.mark.parametrize(
    ("alphabet", "message"),
    [
        ("ae\u0301", r"U\+0301 \(combining acute accent\) cannot be read: it is a mark on"),
        ("a\u093f", "it is a mark on"),
        ("אב", "this script is written from right to left"),
        ("اب", "this script is written from right to left"),
        ("a\u200d", "nothing of it is seen"),
        ("a\n", "nothing of it is seen"),
    ],
)
def test_characters_that_do_not_stand_alone_are_refused_in_words(
    alphabet: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_scheme({"alphabet": alphabet, "length": 4, "width": 100, "height": 50})


@pytest.mark.parametrize("alphabet", ["éü", "漢字", "०१", "٠١", "한글", "🙂🙃", "= "])
def test_characters_that_stand_alone_are_taken(alphabet: str) -> None:
    values = {"alphabet": alphabet, "length": 4, "width": 100, "height": 50}
    assert check_scheme(values).alphabet == alphabet


TOML = 'alphabet = "ab"\nlength = 4\nwidth = 100\nheight = 50\n'


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(mark + TOML, encoding="utf-8")
    assert load_scheme(path).alphabet == "ab"


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("length = 4", "length = true", "length: expected a number from 1 to 64, .*got true"),
        ("width = 100", "width = false", "width: expected a number, got false"),
        ('"ab"', "1234", "alphabet: expected a text, got 1234; write it in quotes"),
        ('"ab"', '["a", "b"]', "alphabet: expected a text"),
        ('"ab"', f'"{"ab" * 1000}"', "repeats 'ab'"),
    ],
)
def test_values_of_another_type_are_refused(
    tmp_path: Path, right: str, wrong: str, message: str
) -> None:
    path = tmp_path / "s.toml"
    path.write_text(TOML.replace(right, wrong))
    with pytest.raises(ConfigError, match=message):
        load_scheme(path)


def test_long_lists_of_characters_are_shortened() -> None:
    alphabet = "".join(map(chr, range(0x4E00, 0x4E00 + 4000)))
    scheme = Scheme(alphabet=alphabet, length=1, width=100, height=50)
    with pytest.raises(SchemeError, match=r"4000 characters") as refused:
        scheme.encode("a")
    assert len(str(refused.value)) < 300
