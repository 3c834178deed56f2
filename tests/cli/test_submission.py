"""The command that submits: a real server, a run with readings, what is said and what is kept."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simgan_captcha.atomic import file_hash
from simgan_captcha.inference.readings import Reading, save_readings
from simgan_captcha.pipeline.manifest import StageOutcome, Stopwatch, write_finished, write_manifest
from simgan_captcha.pipeline.run_folder import READINGS, VERDICT, read_run
from simgan_captcha.puzzle.answers import answer
from simgan_captcha.puzzle.server import running_puzzle
from tests.commands import command, recorded


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_puzzle(batch_size=1) as url:
        yield url


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run on marty's captchas that reads 10,000 of 16,000 right, and knows which."""
    run = tmp_path / "run"
    names = [f"{n:032x}" for n in range(16_000)]
    readings = [
        Reading(name, answer("marty", name), 0.9, (0.97,) * 4)
        if n < 10_000
        else Reading(name, "????", 0.1, (0.5,) * 4)
        for n, name in enumerate(names)
    ]
    save_readings(run / READINGS, readings)
    recorded(run, "http://127.0.0.1:1")
    identity: dict[str, Any] = {"inputs": {}, "config": {}, "seed": 1}
    stage = run / READINGS.parent
    manifest = write_manifest(stage, identity, Stopwatch(stage), StageOutcome((READINGS.name,)))
    write_finished(run, read_run(run), {"readings": manifest["output"]})
    return run


def test_the_verdict_is_printed_and_kept_beside_the_run(url: str, run: Path) -> None:
    outcome = command("submit", url, run)
    assert (outcome.code, outcome.err) == (0, "")
    kept = json.loads((run / VERDICT).read_text())
    assert outcome.out.splitlines() == [
        "15000 solutions submitted: The machine can read. Here is your passcode.",
        f"passcode: {kept['passcode']}",
        f"kept in {run / VERDICT}",
    ]
    assert kept["passed"] is True
    assert kept["submitted"] == 15_000
    assert kept["reply"] == {"message": kept["message"], "passcode": kept["passcode"]}
    assert kept["readings_sha256"] == file_hash(run / READINGS)


def test_too_few_right_is_a_verdict_with_exit_code_1(url: str, run: Path) -> None:
    outcome = command("submit", url, run, "--user", "doc")
    assert outcome.code == 1
    assert outcome.out.startswith("15000 solutions submitted: Too few correct solutions: None of")
    kept = json.loads((run / VERDICT).read_text())
    assert (kept["passed"], kept["passcode"]) == (False, None)
    assert kept["reply"]["error"] == "Too few correct solutions"


@pytest.mark.parametrize("page", ["/", "/u/marty", "/u/marty/", "/u/marty/challenge"])
def test_the_address_of_the_users_puzzle_will_do(url: str, run: Path, page: str) -> None:
    assert command("submit", url + page, run).code == 0


def test_the_address_of_another_users_puzzle_says_what_to_do(url: str, run: Path) -> None:
    outcome = command("submit", f"{url}/u/doc/", run)
    outcome.error(2, "expected the puzzle of 'marty'", "that of 'doc'", "give --user doc, or")
    assert not (run / VERDICT).exists()
    assert command("submit", f"{url}/u/doc/", run, "--user", "doc").code == 1


def test_no_server_is_said_and_the_last_verdict_stays(url: str, run: Path) -> None:
    assert command("submit", url, run).code == 0
    before = (run / VERDICT).read_bytes()
    command("submit", "http://127.0.0.1:1", run).error(1, "is the puzzle server running there")
    assert (run / VERDICT).read_bytes() == before


def test_a_disk_that_refuses_costs_no_passcode(url: str, run: Path) -> None:
    (run / VERDICT).parent.write_text("in the way")
    outcome = command("submit", url, run)
    outcome.error(1, "the system refused")
    assert "passcode: " in outcome.out


def test_a_password_in_the_address_is_never_shown(run: Path) -> None:
    for address in ("http://me:secret@127.0.0.1:1", "http://me:secret@127.0.0.1:1/u/doc/"):
        outcome = command("submit", address, run)
        outcome.error(1 if address.endswith("1") else 2, "127.0.0.1:1")
        assert "secret" not in outcome.out + outcome.err


def test_readings_older_than_the_run_as_it_is_set_now_are_warned_of(url: str, run: Path) -> None:
    recorded = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(recorded | {"seed": 2}))
    submit: list[str | Path] = ["submit", url, run]
    judge: list[str | Path] = ["judge", run, "--user", "marty"]
    for arguments in (submit, judge):
        outcome = command(*arguments)
        assert outcome.code == 0
        assert outcome.err.startswith(f"warning: the readings in {run} are older than the run as")
        assert "its seed has been changed since; run simgan-captcha run" in outcome.err
    (run / "readings" / "manifest.json").unlink()
    assert "its stage readings is not finished" in command("submit", url, run).err


def test_judging_by_another_users_answers_is_warned_of(run: Path) -> None:
    outcome = command("judge", run, "--user", "doc")
    assert outcome.code == 0
    assert outcome.err == (
        f"warning: {run} is a run on captchas of marty, and is judged by the answers for doc\n"
    )
    assert command("judge", run, "--user", "marty").err == ""
