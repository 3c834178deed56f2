"""Reading the diagnosis of a run. The tests of the pipeline cover `record_run` and `read_run`."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simgan_captcha._version import FORMAT
from simgan_captcha.errors import RunError, UsageError
from simgan_captcha.inference.readings import Reading
from simgan_captcha.pipeline.estimate import Estimate, diagnose
from simgan_captcha.pipeline.run_folder import (
    DIAGNOSIS,
    RUN,
    STORE,
    Request,
    read_diagnosis,
    read_run,
)

WHOLE = diagnose(
    [Reading("x", "ab", 0.9, (0.9, 1.0))],
    [Reading("y", "ab", 0.9, (0.9, 1.0))],
    ["ab"],
    {"read": Estimate(0.8, 0.7, 0.9, 0.85), "adapt": Estimate(0.9, 0.85, 0.95, 0.92)},
    "adapt",
    "ab",
)


def written(run: Path, content: str | bytes) -> Path:
    path = run / DIAGNOSIS
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return run


def test_a_written_diagnosis_is_read_unchanged(tmp_path: Path) -> None:
    assert read_diagnosis(written(tmp_path, json.dumps(WHOLE))) == WHOLE


@pytest.mark.parametrize("run", ["unfinished", "no", "file"])
def test_a_missing_diagnosis_is_an_error(tmp_path: Path, run: str) -> None:
    (tmp_path / "unfinished" / "readings").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"found no readings/diagnosis\.json; run the run to its"):
        read_diagnosis(tmp_path / run)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "null",
        "[1]",
        "[" * 100_000,
        b"\xff\xfe",
        "{}",
        json.dumps({"kept": "read"}),
        json.dumps(WHOLE | {"kept": "../../elsewhere"}),
        json.dumps(WHOLE | {"kept": ["read"]}),
        json.dumps(WHOLE | {"estimates": {}}),
        json.dumps(WHOLE | {"estimates": None}),
        json.dumps(WHOLE | {"estimates": {"read": WHOLE["estimates"]["read"]}}),
        json.dumps(WHOLE | {"estimates": {"adapt": {"accuracy": 0.9}}}),
        json.dumps(WHOLE | {"estimates": {"adapt": [0.9, 0.8, 1.0, 0.9]}}),
        json.dumps(
            WHOLE | {"estimates": {"adapt": WHOLE["estimates"]["adapt"] | {"accuracy": "0.9"}}}
        ),
        json.dumps(
            WHOLE | {"estimates": {"adapt": WHOLE["estimates"]["adapt"] | {"high": float("nan")}}}
        ),
    ],
)
def test_a_damaged_diagnosis_is_an_error_with_an_action(
    tmp_path: Path, content: str | bytes
) -> None:
    written(tmp_path, content)
    with pytest.raises(RunError, match=r"damaged .*; delete the folder readings in it and run the"):
        read_diagnosis(tmp_path)


SHORT = st.text(max_size=3)  # than the name of a stage
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | SHORT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SHORT, inner),
    max_leaves=8,
)


@given(st.sampled_from(["kept", "estimates"]), JSON)
def test_any_other_json_is_damage(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: Any
) -> None:
    run = written(tmp_path_factory.mktemp("run"), json.dumps(WHOLE | {key: value}))
    with pytest.raises(RunError, match="damaged"):
        read_diagnosis(run)


RECORDED: dict[str, Any] = {
    "format": FORMAT,
    "challenges": "~/captchas",
    "user": "marty",
    "seed": 1,
    "preset": "quick",
    "settings": ["recognizer.steps=1"],
    "given_scheme": None,
    "scheme": {"alphabet": "ab", "length": 2, "width": 48, "height": 24},
    "config": {},
}


def test_a_recorded_run_is_read_unchanged(tmp_path: Path) -> None:
    (tmp_path / RUN).write_text(json.dumps(RECORDED))
    assert read_run(tmp_path) == RECORDED


def test_a_folder_given_with_its_whole_path_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "alice"))
    run, challenges = tmp_path / "run", tmp_path / "alice" / "captchas"
    (run / STORE).mkdir(parents=True)
    (run / STORE / "part-0.parquet").touch()
    (run / RUN).write_text(json.dumps(RECORDED))
    with pytest.raises(UsageError, match="is a run on the images of ~/captchas, got ~/others"):
        Request(str(challenges.with_name("others")), "marty").record(run)
    Request(str(challenges), "marty").record(run)
    assert read_run(run)["challenges"] == "~/captchas"


@pytest.mark.parametrize("other", [{}, {"format": FORMAT + 1}, {"format": None}])
def test_a_run_of_another_format_is_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    recorded = {key: value for key, value in RECORDED.items() if key != "format"}
    (tmp_path / RUN).write_text(json.dumps(recorded | other))
    with pytest.raises(RunError, match=f"a run of format {FORMAT} in .*; begin it again in anothe"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[" * 100_000,
        '{"a": ' * 900 + "1" + "}" * 900,
        json.dumps(RECORDED | {"settings": [1]}),
        json.dumps(RECORDED | {"challenges": 5}),
        json.dumps(RECORDED | {"scheme": []}),
        json.dumps(RECORDED | {"scheme": {}}),
        json.dumps(RECORDED | {"scheme": RECORDED["scheme"] | {"length": True}}),
        json.dumps(RECORDED | {"seed": True}),
        json.dumps(RECORDED | {"config": None}),
    ],
)
def test_a_damaged_record_is_an_error_with_an_action(tmp_path: Path, content: str) -> None:
    (tmp_path / RUN).write_text(content)
    with pytest.raises(RunError, match=r"its run\.json is damaged .*; delete that file"):
        read_run(tmp_path)


@given(st.sampled_from(sorted(RECORDED)), JSON)
def test_any_other_json_is_a_damaged_record_or_a_record(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: Any
) -> None:
    run = tmp_path_factory.mktemp("run")
    (run / RUN).write_text(json.dumps(RECORDED | {key: value}))
    with contextlib.suppress(RunError):
        kept = read_run(run)[key]
        # A folder's run needs no user.
        assert (
            type(kept) is type(RECORDED[key])
            or (key, kept) == ("user", None)
            or (key == "given_scheme" and isinstance(kept, dict))
        )
