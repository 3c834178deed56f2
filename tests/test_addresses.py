import pytest
from hypothesis import given
from hypothesis import strategies as st

from simgan_captcha.addresses import server_and_user, without_password
from simgan_captcha.data.fetch import batch_urls


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


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://h/{n}?token=S", "http://h/{n}?token=***"),
        ("http://h/?page=2&api_key=S&x=1", "http://h/?page=2&api_key=***&x=1"),
        ("http://h/?X-Amz-Signature=S;sid=S", "http://h/?X-Amz-Signature=***;sid=***"),
        ("http://h/?q=0a1b2c3d4e5f6a7b8c9d0e", "http://h/?q=***"),
        ("http://h/?0a1b2c3d4e5f6a7b8c9d0e", "http://h/?***"),
        ("http://h/?key=a{n}#access_token=S", "http://h/?key=***{n}"),
        ("http://me:S@h/?n={n}&user=marty", "http://h/?n={n}&user=marty"),
        ("folder?token=S", "folder?token=S"),
    ],
)
def test_tokens_are_never_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown
    assert without_password(shown) == shown


def test_hidden_tokens_leave_a_source_for_each_batch() -> None:
    urls = batch_urls("http://me:pw@h/c?token=S{n}&n={n}", "marty", 3)
    assert list(urls) == [f"http://h/c?token=***{n}&n={n}" for n in range(3)]
    assert [str(url.params["token"]) for url in urls.values()] == ["S0", "S1", "S2"]
