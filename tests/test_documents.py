"""JSON of any depth and shape is read or refused, without any other effect."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from simgan_captcha.documents import MAX_DEPTH, parse_object, read_object, require_shape

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


class Shape(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    name: str
    files: dict[str, str]
    count: int


@given(st.dictionaries(st.text(max_size=5), VALUES))
def test_objects_come_back(value: dict[str, Any]) -> None:
    assert json.dumps(parse_object(json.dumps(value))) == json.dumps(value)


@given(st.binary(max_size=50) | st.text(max_size=50))
def test_anything_else_is_a_value_error(text: bytes | str) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(parse_object(text), dict)


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 900, 100_000])
@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_depth_has_a_limit(depth: int, brackets: str) -> None:
    if brackets == "[]":
        text = '{"a": ' + "[" * depth + "]" * depth + "}"
    else:
        text = '{"a": ' * depth + "1" + "}" * depth
    with pytest.raises(ValueError, match="nested"):
        parse_object(text)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "name": st.just("x") | VALUES,
            "files": st.just({"a": "b"}) | VALUES,
            "count": st.just(1) | VALUES,
        },
    )
)
def test_shapes_are_as_a_model_says_or_refused(value: dict[str, Any]) -> None:
    with contextlib.suppress(ValueError):
        got = require_shape(value, Shape)
        assert type(got["count"]) is int
        assert all(isinstance(each, str) for each in [got["name"], *got["files"].values()])


def test_endless_files_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(ValueError, match="larger"):
        read_object(path)
    with pytest.raises(FileNotFoundError):
        read_object(tmp_path / "none.json")
