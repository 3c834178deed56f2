import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from simgan_captcha.web import app
from simgan_captcha.web.run_status import QUIET_SECONDS, StageStatus, run_status
from tests.web.serving import PATIENCE_SECONDS, asking, serving
from tests.web.test_read_api import a_problem


def stage(run: Path, name: str) -> StageStatus:
    return next(each for each in run_status(run).stages if each.stage == name)


def grow_old(folder: Path, seconds: float) -> None:
    then = time.time() - seconds
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (then, then))


def unfinish(run: Path, name: str) -> None:
    (run / name / "manifest.json").unlink()


def test_a_finished_run_is_done_in_every_stage(made: Path) -> None:
    status = run_status(made)
    assert status.finished
    assert [each.stage for each in status.stages] == [
        "store",
        "background",
        "simulate",
        "refine",
        "read",
        "adapt",
        "readings",
    ]
    assert {each.state for each in status.stages} == {"done"}
    steps = {each.stage: (each.step, each.steps) for each in status.stages if each.steps}
    # The stage of the refiner first trains its label checker.
    assert steps == {"refine": (12, 12), "read": (12, 12), "adapt": (8, 8)}
    assert "240 images" in stage(made, "store").said


def test_a_stage_in_progress_reports_its_step_and_figures(run: Path) -> None:
    unfinish(run, "read")
    lines = (run / "read" / "metrics.jsonl").read_text().splitlines()
    # The last line is incomplete, as after a kill.
    (run / "read" / "metrics.jsonl").write_text("\n".join([*lines[:7], '{"step": 8, "lo']))
    (run / "read" / "elapsed.json").write_text('{"seconds": 75}')
    status = stage(run, "read")
    assert (status.state, status.step, status.steps) == ("working", 7, 12)
    assert status.said.startswith(f"loss {json.loads(lines[6])['loss']:.3g} · accuracy ")
    assert status.said.endswith("for 1 min 15 s")
    assert not run_status(run).finished


def test_a_stage_that_writes_nothing_for_a_minute_is_quiet(run: Path) -> None:
    unfinish(run, "adapt")
    grow_old(run / "adapt", QUIET_SECONDS + 60)
    status = stage(run, "adapt")
    assert status.state == "quiet"
    assert "nothing new for 2 min" in status.said
    (run / "adapt" / "metrics.jsonl").touch()
    assert stage(run, "adapt").state == "working"


def test_an_adaptation_reports_its_number_of_steps(run: Path) -> None:
    unfinish(run, "adapt")
    rows = (run / "adapt" / "metrics.jsonl").read_text().splitlines()[:3]
    longer = [json.dumps(json.loads(row) | {"steps": 20}) for row in rows]
    (run / "adapt" / "metrics.jsonl").write_text("\n".join([*longer, ""]))
    status = stage(run, "adapt")
    assert (status.step, status.steps) == (3, 20)
    assert "steps" not in status.said


def test_stages_to_come_wait_and_rounds_add_up(run: Path) -> None:
    recorded = json.loads((run / "run.json").read_text())
    recorded["config"] |= {
        "calibrate": True,
        "calibration": {"rounds": 3, "first_steps": 10, "steps": 5},
    }
    (run / "run.json").write_text(json.dumps(recorded))
    assert stage(run, "calibrate") == StageStatus(
        stage="calibrate", title="Calibration", state="waiting", step=0, steps=20
    )
    for number, step in ((1, 10), (2, 3)):
        folder = run / "calibrate" / f"round-{number}"
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").write_text(f'{{"step": {step}, "loss": 0.5}}\n')
    (run / "calibrate" / "identity.json").write_text("{}")
    status = stage(run, "calibrate")
    assert (status.state, status.step) == ("working", 13)
    # The bootstrap recognizer of calibration is then the label checker.
    assert stage(run, "refine").steps == 8


def test_a_run_that_has_only_begun(run: Path) -> None:
    for folder in run.iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)
    (run / "store").mkdir()
    status = run_status(run)
    assert [each.state for each in status.stages] == ["working"] + ["waiting"] * 6
    assert stage(run, "store").said == "0 batches so far"


def test_damage_waits_rather_than_fails(run: Path) -> None:
    for path in ("run.json", "read/manifest.json", "read/metrics.jsonl", "adapt/manifest.json"):
        (run / path).write_bytes(b"\xff{")
    status = run_status(run)
    assert not status.finished
    assert stage(run, "read").state == "working"


def events(reply: httpx.Response) -> Iterator[dict[str, Any]]:
    """The events of the server, as they arrive."""
    for line in reply.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def test_events_are_sent_first_and_at_every_change(run: Path) -> None:
    unfinish(run, "adapt")
    with (
        serving(run) as address,
        asking(address) as client,
        client.stream("GET", "/api/run/events") as reply,
    ):
        assert reply.headers["content-type"].startswith("text/event-stream")
        assert reply.headers["x-accel-buffering"] == "no"  # nginx would buffer them
        told = events(reply)
        assert next(told) == client.get("/api/run").json()
        with (run / "adapt" / "metrics.jsonl").open("a") as metrics:
            metrics.write('{"step": 9, "loss": 0.25}\n')
        later = next(told)
        adapt = next(s for s in later["stages"] if s["stage"] == "adapt")
        assert (adapt["step"], adapt["state"]) == (9, "working")
        assert "loss 0.25" in adapt["said"]
        shutil.copy(run / "read" / "manifest.json", run / "adapt" / "manifest.json")
        assert next(told)["finished"] is True


def test_too_many_followers_are_a_problem(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "MAX_FOLLOWERS", 1)
    with serving(made) as address, asking(address) as client:
        with client.stream("GET", "/api/run/events") as reply:
            told = events(reply)  # kept, because the stream ends with its reader
            next(told)
            refused = client.get("/api/run/events")
            a_problem(refused, 503, "at most 1")
            assert refused.headers["retry-after"] == "5"
        # A follower that leaves makes room.
        for _ in range(100):
            with client.stream("GET", "/api/run/events") as reply:
                if reply.status_code == 200:
                    return
            time.sleep(0.1)
        pytest.fail("nobody can follow any more")


def test_concurrent_followers_are_counted(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "MAX_FOLLOWERS", 2)
    all_answered = threading.Barrier(8)
    with serving(made) as address, asking(address) as client:

        def follow(_: int) -> int:
            with client.stream("GET", "/api/run/events") as reply:
                all_answered.wait(PATIENCE_SECONDS)
                return reply.status_code

        with ThreadPoolExecutor(8) as pool:
            assert sorted(pool.map(follow, range(8))) == [200, 200, *[503] * 6]


def test_sheets_are_the_refiner_s_pictures(client: httpx.Client, made: Path) -> None:
    for step in (3, 6, 8):
        reply = client.get(f"/api/run/sheets/{step}")
        assert reply.headers["content-type"] == "image/png"
        assert reply.content == (made / "refine" / f"sheet-{step:06d}.png").read_bytes()
    a_problem(client.get("/api/run/sheets/4"), 404, "step 4")
    for other in ("x", "-1", "9" * 30, "..%2f..%2frun.json", "3.png"):
        assert client.get(f"/api/run/sheets/{other}").status_code in (404, 422)
