"""Runs all commands that README and docs cite as evidence, one after another. `make bench-all`.

    python benchmarks/bench_all.py WORK --plan      # what is done, what remains, what it costs
    python benchmarks/bench_all.py WORK --rivals PYTHON --python PYTHON --node-path MODULES
    python benchmarks/bench_all.py --check          # files in benchmarks/results of other commits

All results are of one commit, so the working tree must be clean. The results of a command wait in
WORK/results, and its output is in WORK/logs/NAME.txt. If a command fails, the next one follows. An
interrupted command starts again the next time; finished ones are not repeated. The results are
copied to benchmarks/results when nothing remains. Before that, they would make the tree dirty.
"""

import argparse
import fcntl
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evidence import HISTORY, NEEDS, TABLE, Evidence
from record import RESULTS, commit

from simgan_captcha.atomic import write_bytes

HERE = Path(__file__).resolve().parent
DONE, REMAINS = "done", "remains"


def main(arguments: Sequence[str] | None = None, table: Sequence[Evidence] = TABLE) -> None:
    options = parse(arguments, [one.name for one in table])
    if options.check:
        sys.exit(check(options.out, table))
    if (now := commit()) is None:
        sys.exit("expected a git checkout, found none; clone the repository")
    bench = Bench(options, now.removesuffix("-dirty"), table)
    states = bench.states()
    chosen = [one for one in table if one.name in (options.only or states)]
    if options.plan:
        return show_plan(chosen, states, bench)
    remaining = [one for one in chosen if states[one.name] == REMAINS]
    if remaining and now != bench.commit:
        sys.exit(f"expected a clean working tree, {now} has changes; commit or stash them")
    with bench.alone():
        failed = bench.run_all(remaining)
    states = bench.states()
    show_plan(chosen, states, bench)
    for name, why in failed.items():
        print(f"FAILED: {name}: {why}")
    if REMAINS not in states.values():
        shutil.copytree(bench.results, options.out, dirs_exist_ok=True)
        print(f"copied to {options.out}")
    sys.exit(1 if failed else 0)


def parse(arguments: Sequence[str] | None, names: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, nargs="?", default=Path("bench-work"))
    parser.add_argument("--plan", action="store_true", help="show the costs, and run nothing")
    parser.add_argument("--check", action="store_true", help="list results of other commits")
    parser.add_argument("--only", nargs="+", choices=names, help="a part of the table")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="real captchas")
    parser.add_argument("--rivals", default=".venv-rivals/bin/python", help="of `make rivals`")
    parser.add_argument("--python", default="", help="one that has the package captcha 0.7.1")
    parser.add_argument("--node-path", default="", help="folder of svg-captcha, @resvg/resvg-js")
    parser.add_argument("--log", type=Path, default=Path("pretraining/log.jsonl"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    for name in ("work", "data", "log", "out"):
        setattr(options, name, getattr(options, name).resolve())
    return options


class Bench:
    """The commands at one commit, in one folder of work."""

    def __init__(self, options: argparse.Namespace, commit: str, table: Sequence[Evidence]) -> None:
        self.options, self.commit, self.work = options, commit, options.work
        self.table = {one.name: one for one in table}
        self.results = self.work / "results"
        self._met: dict[str, str] = {}
        self.words = {
            "work": str(self.work),
            "challenges": str(options.data / "hackmit2017" / "challenges"),
            "families": str(options.data / "families"),
            "rivals": options.rivals,
            "python": options.python,
            "node": options.node_path,
            "log": str(options.log),
        }

    def states(self) -> dict[str, str]:
        """`DONE`, `REMAINS`, or why a command is left out, for each name of the table."""
        states: dict[str, str] = {}
        for one in self.table.values():
            lacking = [lack for need in one.needs if (lack := self._lacking(need))]
            lacking += [name for name in one.after if states[name] not in (DONE, REMAINS)]
            if self.is_done(one):
                states[one.name] = DONE
            else:
                states[one.name] = f"left out: needs {', '.join(lacking)}" if lacking else REMAINS
        return states

    def is_done(self, one: Evidence) -> bool:
        """Whether a command has finished, and its results are of this commit."""
        finished = (self.work / "finished" / one.name).exists() and self._has(one, self.results)
        return finished or self._has(one, self.options.out)

    def _has(self, one: Evidence, folder: Path) -> bool:
        return all(commits_of(folder, stem) == {self.commit} for stem in one.results)

    def _lacking(self, need: str) -> str:
        if need not in self._met:
            self._met[need] = "" if NEEDS[need](self.options) else need
        return self._met[need]

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Take the folder of work for this commit and this process."""
        (self.work / "logs").mkdir(parents=True, exist_ok=True)
        of = self.work / "commit"
        with (self.work / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                sys.exit(f"expected nobody else in {self.work}, another bench_all.py runs there")
            if of.exists() and (was := of.read_text()) != self.commit:
                sys.exit(
                    f"expected {self.work} to be of commit {self.commit}, it is of {was}; "
                    "give another folder"
                )
            write_bytes(of, self.commit.encode())
            yield

    def run_all(self, remaining: Sequence[Evidence]) -> dict[str, str]:
        """Run commands one after another. Return why some failed."""
        failed: dict[str, str] = {}
        for one in remaining:
            print(f"== {one.name}, about {one.minutes} minutes", flush=True)
            waits = [name for name in one.after if not self.is_done(self.table[name])]
            why = f"not run, {waits[0]} is not finished" if waits else self._run(one)
            if why:
                failed[one.name] = why
                print(f"{one.name}: {why}", flush=True)
            else:
                write_bytes(self.work / "finished" / one.name, b"")
        return failed

    def _run(self, one: Evidence) -> str:
        """Run the commands of one piece of evidence. Return why it failed, or nothing."""
        log = self.work / "logs" / f"{one.name}.txt"
        for command in one.commands:
            with (
                log.open("a") as out,
                subprocess.Popen(
                    self.argv(command),
                    cwd=HERE.parent,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                ) as process,
            ):
                try:
                    code = process.wait()
                except KeyboardInterrupt:
                    process.terminate()
                    raise
            if code:
                return f"exit code {code}; see {log}"
        wrong = [stem for stem in one.results if commits_of(self.results, stem) != {self.commit}]
        return f"no result {', '.join(wrong)} of commit {self.commit}; see {log}" if wrong else ""

    def argv(self, command: str) -> list[str]:
        """A command of the table as arguments of a process."""
        first, *rest = (word.format_map(self.words) for word in shlex.split(command))
        if first == "simgan-captcha":
            return [sys.executable, "-m", "simgan_captcha", *rest]
        return [sys.executable, str(HERE / first), *rest, "--out", str(self.results)]


def show_plan(chosen: Sequence[Evidence], states: Mapping[str, str], bench: Bench) -> None:
    """Print each command with its state and cost, and the sum."""
    for one in chosen:
        print(f"{one.name:26}{one.minutes:5} min  {states[one.name]}")
    sums = Counter(states[one.name] for one in chosen)
    minutes = sum(one.minutes for one in chosen if states[one.name] == REMAINS)
    print(
        f"commit {bench.commit}: {sums[DONE]} done, {sums[REMAINS]} remain "
        f"(about {minutes / 60:.1f} hours of two cores), "
        f"{len(chosen) - sums[DONE] - sums[REMAINS]} left out"
    )


def check(folder: Path, table: Sequence[Evidence]) -> int:
    """Print the results that are not of the most common commit, or of no command. Return 1 then."""
    stems = sorted({path.stem for path in folder.iterdir()})
    written = {stem for one in table for stem in one.results}
    found = {stem: commits_of(folder, stem) for stem in stems}
    counts = Counter(name for stem in stems if stem in written for name in found[stem])
    common = counts.most_common(1)[0][0] if counts else None
    print(f"most common commit: {common}")
    wrong = [f"{stem}: no command writes it" for stem in stems if stem not in {*written, *HISTORY}]
    for stem in stems:
        named = ", ".join(sorted(found[stem])) or "none"
        if stem in written and found[stem] != {common}:
            wrong.append(f"{stem}: commit {named}")
        elif stem in HISTORY and stem not in written:
            print(f"history, cited by docs/experiments.md: {stem}: commit {named}")
    print("\n".join(wrong))
    return 1 if wrong else 0


def commits_of(folder: Path, stem: str) -> set[str]:
    """All commits that the JSON and the Markdown file of a result name as their own."""
    data, page = (folder / f"{stem}.{kind}" for kind in ("json", "md"))
    try:
        found = set(_commits(json.loads(data.read_text())))
    except (OSError, ValueError):
        found = set()
    text = page.read_text() if page.exists() else ""
    return found | set(re.findall(r"^`.*`, commit ([\w-]+),", text, re.MULTILINE))


def _commits(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        # A row of run_cost.py has the commit that it measured, and the one that made it.
        if isinstance(value.get("commit"), str) and "made_by" not in value:
            yield value["commit"]
        value = list(value.values())
    for one in value if isinstance(value, list) else ():
        yield from _commits(one)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command continues")
