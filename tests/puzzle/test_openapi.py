"""The server against its own OpenAPI description, by schemathesis over real HTTP."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case

from simgan_captcha.puzzle.app import create_app
from simgan_captcha.puzzle.artwork import Artist
from simgan_captcha.puzzle.server import running_puzzle

DESCRIPTION = create_app(artist=Artist(), passcode_key=b"secret").openapi()
schema = schemathesis.openapi.from_dict(DESCRIPTION)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_puzzle(batch_size=3) as url:
        yield url


def test_the_server_gives_its_description(url: str) -> None:
    assert httpx.get(f"{url}/openapi.json").json() == DESCRIPTION
    assert set(DESCRIPTION["paths"]) == {
        "/",
        "/u/{user}/",
        "/u/{user}/challenge",
        "/u/{user}/random_image",
        "/u/{user}/image/{name}",
        "/u/{user}/solution",
    }


def test_the_description_has_the_limits_of_submissions() -> None:
    body = DESCRIPTION["paths"]["/u/{user}/solution"]["post"]["requestBody"]
    described = body["content"]["application/json"]["schema"]
    assert described["description"] == "At most 15000 solutions, in at most 4194304 bytes of JSON."
    assert described["properties"]["solutions"]["items"]["required"] == ["name", "solution"]


@schema.parametrize()
@settings(max_examples=50, suppress_health_check=list(HealthCheck))
def test_every_answer_is_as_described(case: Case[Any], url: str) -> None:
    """Statuses, content types and bodies match, and no request gives a 500."""
    case.call_and_validate(base_url=url)
