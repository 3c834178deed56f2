import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simgan_captcha.puzzle.answers import answer


@pytest.mark.parametrize(
    ("user", "name", "expected"),
    [
        # md5sum says 8dfd 748d 5afb 1a32...; 0x8dfd = 36349 = 36 * 1009 + 25, and [25] is z.
        ("marty", "0123456789abcdef0123456789abcdef", "z39k"),
        # cb0d 0017 dfc8 c0c6...; 51981, 23, 57288, 49350 leave 33, 23, 12, 30.
        ("doc", "canal", "7xm4"),
        # 307b 4899 24ea 4198...; 12411, 18585, 9450, 16792 leave 27, 9, 18, 16. Hashed as UTF-8.
        ("žofie", "🙂", "1jsq"),
    ],
)
def test_the_rule_agrees_with_hashes_computed_by_hand(user: str, name: str, expected: str) -> None:
    assert answer(user, name) == expected


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("46b30e75710c5f3b848a2f152495bd79", "et9b"),
        ("7cfd17cae076ea098246fb9a894d98e4", "5r79"),
        ("095fee1a97aa5396904cae4e7553e83d", "yo6c"),
        ("2a0404f3add74f68e9b9b940b1ce379c", "6bxp"),
        ("08d6ac9a38969c4e9bc2669fb13d66c2", "hhs4"),
    ],
)
def test_the_rule_gives_what_a_person_sees_in_the_real_captchas(name: str, seen: str) -> None:
    assert answer("rickyhan", name) == seen


@given(st.text(st.characters()), st.text(st.characters()))
def test_any_user_and_name_have_an_answer(user: str, name: str) -> None:
    assert re.fullmatch("[a-z0-9]{4}", answer(user, name))


def test_a_lone_surrogate_is_a_name_like_any_other() -> None:
    assert answer("marty", "\ud800") != answer("marty", "\ud801")
