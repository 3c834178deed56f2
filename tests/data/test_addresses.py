import pytest
from hypothesis import given
from hypothesis import strategies as st

from simgan_captcha.data.addresses import server_and_user, without_password


@pytest.mark.parametrize(
    ("url", "server", "user"),
    [
        ("http://h", "http://h", None),
        ("http://h:8000/", "http://h:8000", None),
        ("http://h/u/marty", "http://h", "marty"),
        ("http://h/u/marty/", "http://h", "marty"),
        ("http://h/u/a%20b%26%C4%8D/challenge", "http://h", "a b&č"),
        ("http://h/puzzle/u/marty/solution", "http://h/puzzle", "marty"),
        ("http://h/u/", "http://h/u", None),
        ("http://h/u/{user}/challenge", "http://h/u/{user}/challenge", None),
        ("http://h/u/marty/challenge-{n}", "http://h/u/marty/challenge-{n}", None),
        ("http://h/u/marty/challenge?x=1", "http://h/u/marty/challenge?x=1", None),
        ("http://h/u/marty/elsewhere", "http://h/u/marty/elsewhere", None),
        ("", "", None),
    ],
)
def test_the_server_and_the_user_of_an_address(url: str, server: str, user: str | None) -> None:
    assert server_and_user(url) == (server, user)


@given(st.text())
def test_any_text_has_a_server_and_perhaps_a_user(url: str) -> None:
    server, user = server_and_user(url)
    assert url.startswith(server)
    assert user is None or user


@given(st.text(st.characters(exclude_characters="/?#@", exclude_categories=["Cs"])))
def test_a_password_is_never_shown(password: str) -> None:
    shown = without_password(f"http://me:{password}@host/u/marty/")
    assert shown == "http://host/u/marty/"
    assert without_password(shown) == shown
