import asyncio
import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from simgan_captcha.errors import UsageError
from simgan_captcha.puzzle.answers import answer
from simgan_captcha.puzzle.app import create_app
from simgan_captcha.puzzle.artwork import Artist
from simgan_captcha.puzzle.server import running_puzzle, serve
from simgan_captcha.puzzle.submission import MAX_BODY_BYTES, passcode
from tests.puzzle.served_puzzle import PATIENCE, served_puzzle


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_puzzle() as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False) as client:
        yield client


def solutions(user: str, names: list[str], *, wrong: bool = False) -> list[dict[str, str]]:
    return [{"name": name, "solution": "????" if wrong else answer(user, name)} for name in names]


def submit(client: httpx.Client, user: str, given: list[dict[str, str]]) -> dict[str, Any]:
    response = client.post(f"/u/{user}/solution", json={"solutions": given})
    assert response.status_code == 200
    reply: dict[str, Any] = response.json()
    return reply


def names(count: int) -> list[str]:
    return [f"{i:032x}" for i in range(count)]


def test_a_challenge_is_1000_images_with_fresh_names(client: httpx.Client) -> None:
    first, second = (client.get("/u/marty/challenge").json() for _ in range(2))
    assert first.keys() == {"images"}
    assert len(first["images"]) == 1000
    for image in first["images"]:
        assert image.keys() == {"name", "jpg_base64"}
        assert re.fullmatch("[0-9a-f]{32}", image["name"])
    every_name = [image["name"] for batch in (first, second) for image in batch["images"]]
    assert len(set(every_name)) == 2000
    for image in first["images"][:20]:
        jpeg = base64.b64decode(image["jpg_base64"], validate=True)
        assert jpeg == Artist().jpeg("marty", image["name"])


def test_an_image_by_name_and_a_random_one(client: httpx.Client) -> None:
    named = client.get("/u/marty/image/0f")
    assert named.headers["content-type"] == "image/jpeg"
    assert named.content == Artist().jpeg("marty", "0f")
    random = [client.get("/u/marty/random_image") for _ in range(2)]
    assert random[0].content != random[1].content
    with Image.open(io.BytesIO(random[0].content)) as image:
        assert (image.format, image.size) == ("JPEG", (100, 50))


def test_pages_are_html_and_escape_the_user(client: httpx.Client) -> None:
    front = client.get("/")
    assert front.headers["content-type"].startswith("text/html")
    page = client.get("/u/%3Cscript%3Ealert(1)%3C%2Fscript%3E/")
    assert page.status_code == 404  # A slash ends the name, even when it is escaped.
    page = client.get("/u/%3Cimg%20src=x%20onerror=alert(1)%3E/")
    assert page.status_code == 200
    assert "&lt;img src=x onerror=alert(1)&gt;" in page.text
    assert "<img src=x" not in page.text


def test_ten_thousand_right_answers_earn_the_passcode(client: httpx.Client) -> None:
    given = solutions("marty", names(10_000))
    reply = submit(client, "marty", given)
    assert reply.keys() == {"message", "passcode"}
    assert submit(client, "marty", given) == reply  # The server has no state.
    assert submit(client, "doc", given)["error"] == "Too few correct solutions"
    other = submit(client, "doc", solutions("doc", names(10_000)))
    assert other["passcode"] != reply["passcode"]


def test_one_answer_less_is_too_few(client: httpx.Client) -> None:
    given = solutions("marty", names(9_999)) + solutions("marty", ["x"] * 5_001, wrong=True)
    assert submit(client, "marty", given) == {
        "error": "Too few correct solutions",
        "message": "At least one of your solutions was correct; 10,000 are needed.",
    }
    none = submit(client, "marty", solutions("marty", ["x"], wrong=True))
    assert none["message"] == "None of your solutions was correct; 10,000 are needed."


def test_the_same_name_counts_once_and_a_wrong_answer_does_not_spoil_a_right_one(
    client: httpx.Client,
) -> None:
    twice = solutions("marty", names(9_999)) + solutions("marty", names(5_000))
    assert "error" in submit(client, "marty", twice)
    both = solutions("marty", names(5_000), wrong=True) + solutions("marty", names(10_000))
    assert "passcode" in submit(client, "marty", both)


def test_15000_are_taken_and_one_more_is_too_many(client: httpx.Client) -> None:
    given = solutions("marty", names(15_001))
    assert "passcode" in submit(client, "marty", given[:15_000])
    assert submit(client, "marty", given) == {"error": "Too many answers submitted"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"not json",
        b'{"solutions": null}',
        b'{"solutions": {}}',
        b'{"solutions": "aaaa"}',
        b'{"solutions": [1]}',
        b'{"solutions": [{"name": "a"}]}',
        b'{"solutions": [{"solution": "a"}]}',
        b'{"solutions": [{"name": 1, "solution": "a"}]}',
        b'{"solutions": [{"name": "a", "solution": null}]}',
        b'{"solutions": [{"name": "\\ud800", "solution": "a"}]}',
        b'{"solutions": [{"name": "\xff", "solution": "a"}]}',
        b'{"solutions": ' + b"[" * 100_000,
        b'{"solutions": ' + b"9" * 100_000 + b"}",
        b'{"solutions": NaN}',
        b'{"solutions": [], "more": 1}',
        b'{"solution": []}',
        b'{"solutions": [{"name": "a", "solution": "b", "confidence": 1}]}',
        b'{"solutions": [], "' + b"x" * 100_000 + b'": 1}',
    ],
    ids=lambda body: body[:50].decode(errors="replace"),
)
def test_a_body_that_is_no_submission_is_answered_400_in_json(
    client: httpx.Client, body: bytes
) -> None:
    response = client.post("/u/marty/solution", content=body)
    assert response.status_code == 400
    assert response.json()["error"].startswith('Expected {"solutions":')
    assert 0 < len(response.json()["message"]) < 200
    assert "Traceback" not in response.text


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ('{"solutions": [], "more": 1}', "more: Extra inputs"),
        ('{"solutions": [{"name": "a", "solution": "b"}, {"name": "c"}]}', "solutions.1.solution"),
        ('{"solutions": [{"name": "a", "solution": 1}]}', "solutions.0.solution: Input should be"),
    ],
)
def test_the_message_names_the_error_and_its_place(
    client: httpx.Client, body: str, where: str
) -> None:
    message = client.post("/u/marty/solution", content=body).json()["message"]
    assert message.startswith(where)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
near_solutions = st.dictionaries(st.sampled_from(["name", "solution", "more"]), json_values)
hostile_bodies = (
    st.binary(max_size=200)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.lists(near_solutions, max_size=5).map(
        lambda value: json.dumps({"solutions": value}).encode()
    )
)


@settings(max_examples=300)
@given(body=hostile_bodies)
def test_bodies_never_cause_a_server_error(client: httpx.Client, body: bytes) -> None:
    response = client.post("/u/marty/solution", content=body)
    assert response.status_code in (200, 400)
    assert "error" in response.json()


@settings(max_examples=100)
@given(user=st.text(min_size=1, max_size=300), name=st.text(min_size=1, max_size=300))
def test_users_and_names_never_cause_a_server_error(
    client: httpx.Client, user: str, name: str
) -> None:
    response = client.get(f"/u/{quote(user, safe='')}/image/{quote(name, safe='')}")
    assert response.status_code in (200, 307, 404)


def test_a_body_over_4_mib_is_refused_declared_or_not(client: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(MAX_BODY_BYTES // 65536 + 1):
            yield b" " * 65536

    for content in (b" " * (MAX_BODY_BYTES + 1), endless()):
        response = client.post("/u/marty/solution", content=content)
        assert response.status_code == 413
        assert response.json()["error"] == "Too large"
    assert client.post("/u/marty/solution", content=b" " * MAX_BODY_BYTES).status_code == 400


def test_other_paths_and_methods_are_answered_in_json(client: httpx.Client) -> None:
    assert client.get("/nowhere").json()["error"] == "Not found"
    assert client.get("/u/marty/image/" + "x" * 300).status_code == 404
    response = client.put("/u/marty/solution")
    assert (response.status_code, response.json()["error"]) == (405, "Method not allowed")


def test_only_the_stated_users_have_a_puzzle() -> None:
    with (
        running_puzzle(users=["marty", "<doc>"], batch_size=3) as url,
        httpx.Client(base_url=url, timeout=PATIENCE) as client,
    ):
        assert len(client.get("/u/marty/challenge").json()["images"]) == 3
        for path in ("/u/biff/", "/u/biff/challenge", "/u/biff/image/a", "/u/biff/random_image"):
            assert client.get(path).status_code == 404
        assert client.post("/u/biff/solution", json={"solutions": []}).status_code == 404
        front = client.get("/").text
        assert '<a href="u/%3Cdoc%3E/">&lt;doc&gt;</a>' in front


def batch(user: str, some_names: list[str]) -> bytes:
    artist = Artist()
    images = [
        {"name": name, "jpg_base64": base64.b64encode(artist.jpeg(user, name)).decode()}
        for name in some_names
    ]
    return json.dumps({"images": images}).encode()


def test_replay_serves_recorded_batches_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    recorded = {f"challenge-{i}": batch("marty", [f"{i}a", f"{i}b"]) for i in (0, 2, 10)}
    for file, content in recorded.items():
        (tmp_path / file).write_bytes(content)
    with (
        running_puzzle(replay=tmp_path) as url,
        httpx.Client(base_url=url, timeout=PATIENCE) as client,
    ):
        served = [client.get("/u/marty/challenge").content for _ in range(4)]
        assert served == [recorded[f"challenge-{i}"] for i in (0, 2, 10, 0)]
        image = client.get("/u/marty/image/10b")
        assert image.content == Artist().jpeg("marty", "10b")
        assert client.get("/u/marty/image/11b").status_code == 404
        random = client.get("/u/marty/random_image").content
        assert random in {Artist().jpeg("marty", f"{i}{x}") for i in (0, 2, 10) for x in "ab"}
        assert "passcode" in submit(client, "marty", solutions("marty", names(10_000)))


def test_replay_of_the_real_captchas_takes_their_answers(real_batches: Path) -> None:
    recorded = [(real_batches / f"challenge-{i}").read_bytes() for i in range(10)]
    with (
        running_puzzle(replay=real_batches, users=["rickyhan"]) as url,
        httpx.Client(base_url=url, timeout=PATIENCE) as client,
    ):
        served = [client.get("/u/rickyhan/challenge").content for _ in recorded]
        assert served == recorded
        some_names = [
            image["name"] for batch in map(json.loads, served) for image in batch["images"]
        ]
        assert "passcode" in submit(client, "rickyhan", solutions("rickyhan", some_names))
        first = json.loads(recorded[0])["images"][0]
        image = client.get(f"/u/rickyhan/image/{first['name']}")
        assert image.content == base64.b64decode(first["jpg_base64"])


def test_a_missing_recording_is_reported_and_other_batches_are_served(
    tmp_path: Path,
) -> None:
    for number in range(2):
        (tmp_path / f"challenge-{number}").write_bytes(batch("marty", [str(number)]))
    with (
        running_puzzle(replay=tmp_path) as url,
        httpx.Client(base_url=url, timeout=PATIENCE) as client,
    ):
        (tmp_path / "challenge-0").unlink()
        for path in ("/u/marty/challenge", "/u/marty/image/0"):
            response = client.get(path)
            assert response.status_code == 503
            assert response.json() == {
                "error": "Not now",
                "message": "the recorded batch cannot be read now; ask the host",
            }
        assert len(client.get("/u/marty/challenge").json()["images"]) == 1
        assert client.get("/u/marty/image/1").status_code == 200


def test_an_internal_failure_reveals_nothing_to_the_client() -> None:
    class Broken(Artist):
        def jpeg(self, user: str, name: str) -> bytes:
            raise ZeroDivisionError("a secret of the inside")

    async def ask() -> httpx.Response:
        app = create_app(artist=Broken(), passcode_key=b"key")
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://puzzle") as client:
            return await client.get("/u/marty/random_image")

    response = asyncio.run(ask())
    assert response.status_code == 500
    assert response.json() == {"error": "Error", "message": "the server failed; ask the host"}


def test_the_key_of_the_host_gives_every_passcode() -> None:
    options = "passcode_key=b'a lasting secret'"
    with (
        served_puzzle(options=options) as puzzle,
        httpx.Client(base_url=puzzle.url, timeout=PATIENCE) as client,
    ):
        reply = submit(client, "marty", solutions("marty", names(10_000)))
    assert reply["passcode"] == passcode(b"a lasting secret", "marty")
    assert passcode(b"a lasting secret", "marty") != passcode(b"another", "marty")


def test_a_folder_that_is_no_recording_is_a_usage_error(tmp_path: Path) -> None:
    for folder, message in ((tmp_path / "missing", "cannot list"), (tmp_path, "holds no file")):
        with pytest.raises(UsageError, match=message), running_puzzle(replay=folder):
            pass
    for content, message in ((b'{"images": [', "is not one"), (b'{"images": []}', "has none")):
        (tmp_path / "challenge-0").write_bytes(content)
        with pytest.raises(UsageError, match=message), running_puzzle(replay=tmp_path):
            pass


def test_a_bad_font_or_address_is_a_usage_error(tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match="give another --font"),
        running_puzzle(font=tmp_path / "missing.ttf"),
    ):
        pass
    for host in ("203.0.113.7", "no such host"):
        with pytest.raises(UsageError, match="cannot listen on"):
            serve(host=host)
    with pytest.raises(UsageError, match="expected a port from 0 to 65535, got 99999"):
        serve(port=99_999)


def test_a_port_in_use_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match="give another --host or --port"):
        serve(port=httpx.URL(url).port or 0)


def gone(url: str) -> bool:
    try:
        httpx.get(url, timeout=PATIENCE)
    except httpx.TransportError:
        return True
    return False


def test_the_server_ends_with_its_block_and_with_an_exception() -> None:
    urls = []

    def play_and_fail() -> None:
        with running_puzzle(batch_size=1) as url:
            assert not gone(url)
            urls.append(url)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        play_and_fail()
    assert gone(urls[0])


PLAYER = """
import sys, time
from simgan_captcha.puzzle.server import running_puzzle
with running_puzzle(batch_size=1) as url:
    print(url, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_server_ends_when_its_parent_is_interrupted_or_killed(how: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PLAYER],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        url = parent.stdout.readline().strip()
        assert not gone(url)
        os.killpg(parent.pid, how)  # As a terminal does on Ctrl-C: the whole group.
        # The pipe ends when the last process that holds it has ended, the server too.
        messages = parent.stderr.read()
    assert gone(url)
    assert messages.count("Traceback") == (1 if how is signal.SIGINT else 0)


def test_serve_in_the_foreground_stops_quietly_on_ctrl_c() -> None:
    with subprocess.Popen(
        [sys.executable, "-u", "-c", "from simgan_captcha.puzzle.server import serve; serve()"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
        assert not gone(url)
        server.send_signal(signal.SIGINT)
        _, messages = server.communicate(timeout=PATIENCE)
    assert server.returncode == 0
    assert messages == ""
