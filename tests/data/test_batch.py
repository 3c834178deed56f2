"""Checks of the contents of one batch."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simgan_captcha import HACKMIT_2017
from simgan_captcha.data.batch import parse_batch, unpack_batch
from simgan_captcha.errors import BatchError
from tests.data.downloading import BAD_IMAGES, batch, jpeg


@pytest.mark.parametrize(("bad", "reason"), BAD_IMAGES)
def test_an_invalid_image_is_rejected_with_a_reason(bad: Any, reason: str) -> None:
    captchas, rejected, _ = unpack_batch([*batch(0), bad], HACKMIT_2017)
    assert [captcha.name for captcha in captchas] == ["0-0", "0-1", "0-2"]
    assert [captcha.image for captcha in captchas] == [jpeg(0), jpeg(1), jpeg(2)]
    (one,) = rejected
    assert reason in one.reason


def test_json_with_too_many_values_is_not_parsed() -> None:
    with pytest.raises(BatchError, match="with 1 to 100000 images, got many more values"):
        parse_batch(b'{"images": [' + b"[]," * 1_000_000 + b"1]}")
    # Names may be made of such characters; a whole batch of them, within reason.
    images = [{"name": "[{,:" * 64, "jpg_base64": ""}] * 3000
    assert parse_batch(json.dumps({"images": images}).encode()) == images


@given(data=st.binary(max_size=100))
@settings(max_examples=200)
def test_parse_batch_raises_batch_errors_only(data: bytes) -> None:
    with pytest.raises(BatchError, match="expected the JSON of a batch"):
        parse_batch(data)
