from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from simgan_captcha.web.corrections import FILE
from simgan_captcha.web.gallery import captcha_key
from tests.web.serving import asking, serving
from tests.web.test_read_api import a_problem

PATHS = ["/", "/run", "/review", "/api/run", "/static/page.css", "/report.css", "/nowhere"]


@pytest.fixture(scope="module")
def proxied(made: Path) -> Iterator[str]:
    with serving(made, hosts={"localhost", "127.0.0.1", "::1", "Captchas.example"}) as address:
        yield address


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:80",
        "127.0.0.1.evil.example",
        "localhost.",
        "",
        "[::2]",
        "[",
        "a b",
    ],
)
def test_on_loopback_other_hosts_are_not_answered(client: httpx.Client, host: str) -> None:
    """Another site can make its name point here (DNS rebinding)."""
    for path in PATHS:
        reply = client.get(path, headers={"Host": host})
        # Uvicorn may refuse an invalid address before the application sees it.
        assert reply.status_code in (400, 421)
        if reply.status_code == 421:
            a_problem(reply, 421, "--allow-host")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:99", "127.0.0.1:1", "[::1]:8080", "[::1]"]
)
def test_on_loopback_this_machine_s_names_are_answered(client: httpx.Client, host: str) -> None:
    assert client.get("/api/run", headers={"Host": host}).status_code == 200


def test_an_allowed_name_is_answered(proxied: str) -> None:
    for host, status in (("captchas.example", 200), ("other.example", 421)):
        with asking(proxied) as client:
            assert client.get("/api/run", headers={"Host": host}).status_code == status


def test_any_name_is_answered_if_none_is_configured(made: Path) -> None:
    with serving(made, hosts=None) as address, asking(address) as client:
        assert client.get("/api/run", headers={"Host": "anything.example"}).status_code == 200


CROSS_SITE = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:1"},  # another port is another server
    {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
    {"Sec-Fetch-Site": "same-site"},
]


@pytest.mark.parametrize("headers", CROSS_SITE)
def test_other_sites_cannot_change_anything(run: Path, headers: dict[str, str]) -> None:
    name = "0f"
    key = captcha_key(name)
    with serving(run) as address, asking(address) as client:
        for method, path in (
            ("PUT", f"/api/corrections/{key}"),
            ("DELETE", f"/api/corrections/{key}"),
            ("POST", "/api/read"),
            ("POST", "/api/teaching"),
        ):
            reply = client.request(method, path, json={"text": "ab"}, headers=headers)
            a_problem(reply, 403, "another site")
    assert not (run / FILE).exists()


def test_a_form_of_another_site_is_not_accepted_as_json(
    run: Path, captchas: dict[str, bytes]
) -> None:
    """Browsers let any site send text/plain and forms, and only these without a preflight."""
    address_of = f"/api/corrections/{captcha_key(next(iter(captchas)))}"
    with serving(run) as address, asking(address) as client:
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
            reply = client.put(address_of, content='{"text": "ab"}', headers={"Content-Type": kind})
            a_problem(reply, 422)
            teach = client.post("/api/teaching", content="{}", headers={"Content-Type": kind})
            a_problem(teach, 422, "body")
        assert client.post(address_of, json={"text": "ab"}).status_code == 405
        assert not (run / FILE).exists()
        assert client.put(address_of, json={"text": "ab"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://{host}"},
        {"Origin": "https://{host}", "Sec-Fetch-Site": "same-origin"},
        # Behind a proxy with TLS and another name, the headers of the browser count.
        {"Origin": "https://captchas.example", "Sec-Fetch-Site": "same-origin"},
    ],
)
def test_our_own_pages_and_programs_can_change_things(
    run: Path, captchas: dict[str, bytes], headers: dict[str, str]
) -> None:
    with serving(run) as address, asking(address) as client:
        host = httpx.URL(address).netloc.decode()
        filled = {name: value.format(host=host) for name, value in headers.items()}
        key = captcha_key(next(iter(captchas)))
        reply = client.put(f"/api/corrections/{key}", json={"text": "ab"}, headers=filled)
        assert reply.status_code == 200


def test_every_answer_has_the_safe_headers(client: httpx.Client) -> None:
    replies = [client.get(path) for path in PATHS]
    replies += [client.post("/api/read"), client.get("/", headers={"Host": "evil.example"})]
    for reply in replies:
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["cross-origin-resource-policy"] == "same-origin"
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in reply.headers
        assert "server" not in reply.headers


def test_only_our_static_files_are_served(client: httpx.Client) -> None:
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static/"):
        assert client.get(path).status_code == 404
