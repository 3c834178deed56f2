"""The table of all evidence: its plan, its run and resumption, and the check of results."""

import importlib
import json
import re
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.small_run import draw_captchas, pipeline, write_challenges

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
COMMIT = "0123456789ab"

SCRIPT = """
import json, pathlib, sys
name, counter, works, _, out = sys.argv[1:]
counter = pathlib.Path(counter)
counter.write_text(counter.read_text() + name + " " if counter.exists() else name + " ")
print("this is", name)
if not pathlib.Path(works).exists():
    sys.exit(3)
pathlib.Path(out).mkdir(exist_ok=True)
written = json.dumps({"command": "python", "commit": "0123456789ab"})
(pathlib.Path(out) / (name + ".json")).write_text(written)
"""
"""A benchmark that fails until a file exists."""


@pytest.fixture
def bench_all(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = importlib.import_module("bench_all")
    monkeypatch.setattr(module, "commit", lambda: COMMIT)
    return module


@pytest.fixture
def table(bench_all: ModuleType, tmp_path: Path) -> tuple[Any, ...]:
    """Two commands, of which the first fails until the file ``mended`` exists."""
    (tmp_path / "script.py").write_text(SCRIPT)
    script, counter = tmp_path / "script.py", tmp_path / "counter"

    def command(name: str, works: Path) -> tuple[str, ...]:
        return (shlex.join([str(script), name, str(counter), str(works)]),)

    evidence = bench_all.Evidence
    return (
        evidence("first", 60, command("first", tmp_path / "mended")),
        evidence("second", 30, command("second", script)),
    )


@pytest.fixture
def bench(bench_all: ModuleType, table: tuple[Any, ...], tmp_path: Path) -> Callable[..., int]:
    """Call the command with the small table, and return its exit code."""

    def run(*arguments: str, table: tuple[Any, ...] = table) -> int:
        (tmp_path / "out").mkdir(exist_ok=True)
        where = [str(tmp_path / "work"), "--out", str(tmp_path / "out")]
        try:
            bench_all.main([*where, *arguments], table)
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else pytest.fail(str(ended.code))
        return 0

    return run


def test_a_failure_stops_nothing_and_the_next_start_repeats_it_alone(
    bench: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench() == 1
    said = capsys.readouterr().out
    assert "FAILED: first: exit code 3; see " in said
    assert "1 done, 1 remain (about 1.0 hours" in said
    assert not list((tmp_path / "out").iterdir())  # the tree stays clean until nothing remains
    assert "this is first" in (tmp_path / "work" / "logs" / "first.txt").read_text()
    (tmp_path / "mended").touch()
    assert bench() == 0
    assert (tmp_path / "counter").read_text().split() == ["first", "second", "first"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"first.json", "second.json"}
    assert bench() == 0
    assert len((tmp_path / "counter").read_text().split()) == 3


def test_the_plan_shows_costs_and_what_is_left_out(
    bench: Callable[..., int],
    bench_all: ModuleType,
    table: tuple[Any, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    need = next(need for need in bench_all.NEEDS if "--log" in need)
    lacking = bench_all.Evidence("third", 600, ("none.py",), needs=(need,))
    later = bench_all.Evidence("fourth", 600, ("none.py",), after=("third",))
    more = (*table, lacking, later)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "second.json").write_text(json.dumps({"commit": COMMIT}))
    log = str(tmp_path / "log.jsonl")
    assert bench("--plan", "--log", log, table=more) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [re.split(r" +\d+ min +", line) for line in lines[:-1]] == [
        ["first", "remains"],
        ["second", "done"],
        ["third", f"left out: needs {need}"],
        ["fourth", "left out: needs third"],
    ]
    assert lines[-1].endswith("1 done, 1 remain (about 1.0 hours of two cores), 2 left out")
    assert not (tmp_path / "work").exists()
    Path(log).touch()
    assert bench("--plan", "--log", log, table=more) == 0
    assert "3 remain (about 21.0 hours" in capsys.readouterr().out


def test_what_needs_a_failed_command_does_not_run(
    bench: Callable[..., int],
    bench_all: ModuleType,
    table: tuple[Any, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    later = bench_all.Evidence("later", 1, ("none.py",), after=("first",))
    assert bench(table=(*table, later)) == 1
    assert "FAILED: later: not run, first is not finished" in capsys.readouterr().out


def test_a_result_of_another_commit_is_a_failure(
    bench: Callable[..., int],
    bench_all: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(bench_all, "commit", lambda: "ba9876543210")
    (tmp_path / "mended").touch()
    assert bench() == 1
    assert "first: no result first of commit ba9876543210" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (f"{COMMIT}-dirty", "expected a clean working tree"),
        (None, "expected a git checkout"),
        ("ba9876543210", "it is of 0123456789ab; give another folder"),
    ],
)
def test_other_trees_are_refused(
    bench: Callable[..., int],
    bench_all: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    now: str | None,
    reason: str,
) -> None:
    assert bench("--only", "second") == 0
    monkeypatch.setattr(bench_all, "commit", lambda: now)
    with pytest.raises(pytest.fail.Exception, match=reason):
        bench()


def test_two_never_run_in_one_folder(
    bench: Callable[..., int], bench_all: ModuleType, tmp_path: Path
) -> None:
    options = bench_all.parse([str(tmp_path / "work")], [])
    with (
        bench_all.Bench(options, COMMIT, ()).alone(),
        pytest.raises(pytest.fail.Exception, match=r"another bench_all\.py runs there"),
    ):
        bench()


def test_an_interrupted_command_ends_and_runs_again(
    bench: Callable[..., int],
    bench_all: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "mended").touch()
    started: list[Any] = []
    real = bench_all.subprocess.Popen

    class Interrupted(real):  # type: ignore[valid-type, misc]
        def wait(self, timeout: float | None = None) -> int:
            if not started:
                started.append(self)
                time.sleep(0.01)
                raise KeyboardInterrupt
            return int(super().wait(timeout))

    monkeypatch.setattr(bench_all.subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench()
    assert started[0].returncode is not None  # it does not go on alone
    assert not (tmp_path / "work" / "finished").exists()
    assert bench() == 0


def test_results_of_other_commits_of_none_and_of_no_command_are_listed(
    bench: Callable[..., int],
    bench_all: ModuleType,
    table: tuple[Any, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    names = ("third", "fourth", "fifth")
    more = (*table, *(bench_all.Evidence(name, 1, ()) for name in names))
    (out / "first.json").write_text(json.dumps({"commit": COMMIT}))
    rows = [{"commit": "measured", "made_by": {"commit": COMMIT}}]
    (out / "second.json").write_text(json.dumps({"rows": rows}))
    (out / "second.md").write_text(f"# Title\n\n`python x.py`, commit {COMMIT}, a machine\n")
    history = bench_all.HISTORY[0]
    (out / f"{history}.json").write_text(json.dumps({"commit": "old"}))
    assert bench("--check", table=more) == 0
    assert f"{history}: commit old" in capsys.readouterr().out
    (out / "third.json").write_text(json.dumps({"commit": "other-dirty"}))
    (out / "fourth.json").write_text("{}")
    (out / "fifth.json").write_text(json.dumps({"commit": COMMIT}))
    (out / "fifth.md").write_text("# Title\n\n`python x.py`, commit older, a machine\n")
    (out / "stray.png").touch()
    assert bench("--check", table=more) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"most common commit: {COMMIT}"
    assert sorted(lines[2:]) == [
        f"fifth: commit {COMMIT}, older",
        "fourth: commit none",
        "stray: no command writes it",
        "third: commit other-dirty",
    ]


def test_every_cited_result_has_its_command(bench_all: ModuleType) -> None:
    """The log of experiments may also cite results that no command repeats."""
    written = {stem for one in bench_all.TABLE for stem in one.results}
    log = (ROOT / "docs" / "experiments.md").read_text()
    pages = [
        *ROOT.glob("*.md"),
        *(p for p in ROOT.glob("docs/*.md") if "experiments" not in p.name),
    ]
    text = "".join(page.read_text() for page in pages)
    cited, by_log = (set(re.findall(r"benchmarks/results/(\w+)\.", t)) for t in (text, log))
    # Cited until families_several_fonts and all of families are measured.
    older = {
        "families_waves",
        "families_simulator_alone",
        "families_least_squares",
        "families_digits",
    }
    assert cited - written <= older
    assert by_log - written == set(bench_all.HISTORY)
    present = {path.stem for path in (BENCHMARKS / "results").iterdir()}
    assert present - written == set(bench_all.HISTORY)


def test_the_commands_of_the_table_have_their_scripts_and_options(bench_all: ModuleType) -> None:
    options = bench_all.parse([], [])
    bench = bench_all.Bench(options, COMMIT, bench_all.TABLE)
    shared = {n: (BENCHMARKS / f"{n}.py").read_text() for n in ("bench_lab", "real_families")}
    before: set[str] = set()
    for one in bench_all.TABLE:
        assert before.issuperset(one.after)
        assert bench_all.NEEDS.keys() >= set(one.needs)
        before.add(one.name)
        for command in one.commands:
            _, script, *words = bench.argv(command)
            if script != "-m":
                own = Path(script).read_text()
                used = [
                    text
                    for n, text in shared.items()
                    if re.search(rf"^(import|from) {n}\b", own, re.M)
                ]
                source = own + "".join(used)
                asked = [word for word in words if word.startswith("--")]
                assert [word for word in asked if f'"{word}"' not in source] == []


def test_training_under_torchrun_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    write_challenges(tmp_path / "challenges", draw_captchas(60))
    run = tmp_path / "run"
    pipeline(run, tmp_path / "challenges", "recognizer.images=raw")
    size = ["--steps", "14", "--rounds", "1"]
    importlib.import_module("scaling").main(["--run", str(run), *size, "--out", str(tmp_path)])
    report = json.loads((tmp_path / "scaling.json").read_text())
    rates = report["images_per_second"]
    assert rates.keys() == {"1", "2"}
    assert report["efficiency"]["2"] == pytest.approx(rates["2"] / rates["1"] / 2)
    assert report["training_flops"] > 0
    assert "| 1 | " in (tmp_path / "scaling.md").read_text()
