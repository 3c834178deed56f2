"""The documentation matches the package: settings, commands, links and scripts."""

import contextlib
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import typer

from simgan_captcha.cli import app
from simgan_captcha.puzzle.answers import answer

ROOT = Path(__file__).parents[1]


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_configuration_page_is_what_the_code_says() -> None:
    page = load(ROOT / "docs" / "write_configuration.py").page()
    written = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == page, "run: make docs"
    undescribed = re.findall(r"\| `[\w.]+` \| [^|]* \|  \|", page)
    assert not undescribed


def test_commands_page_is_what_the_help_says() -> None:
    page = load(ROOT / "docs" / "write_commands.py").page()
    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == page, "run: make docs"
    assert not re.findall(r"^\| `.*` \|  \|$", page, re.MULTILINE)  # no row lacks its help


def test_readme_names_every_command_and_no_other() -> None:
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"simgan-captcha (\w+)", text))
    assert named == commands


PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])


def test_every_command_of_the_documents_has_its_options() -> None:
    """The lines of code blocks that begin with the command are parsed, and not run."""
    pages = [page for page in PAGES if page.name != "commands.md"]  # written by the code
    blocks = [b for p in pages for b in re.findall(r"^```\n(.*?)^```", p.read_text(), re.M | re.S)]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    asked = [found[1] for line in lines if (found := re.match(r"simgan-captcha (.+)", line))]
    assert len(asked) > 30
    group: Any = typer.main.get_command(app)
    for line in asked:
        name, *words = shlex.split(re.split(r" {4,}", line)[0], comments=True)
        with contextlib.suppress(typer.Exit):  # of --version and --help
            group.commands[name].make_context(name, words)


@pytest.mark.parametrize("source", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(source: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", source.read_text(encoding="utf-8"))
    assert [t for t in targets if not (source.parent / t).exists()] == []


def test_the_hosts_script_of_the_puzzle_page_serves(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "puzzle.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```python\n(.+?)```", page, re.DOTALL)
    assert "port=8000" in script
    (tmp_path / "host.py").write_text(script.replace("port=8000", "port=0"), encoding="utf-8")
    (tmp_path / "passcode.key").write_bytes(b"k" * 32)
    with subprocess.Popen(
        [sys.executable, "host.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as host:
        assert host.stdout is not None
        try:
            lines = [host.stdout.readline().split() for _ in range(3)]
            assert [line[0] for line in lines[:2]] == ["marty", "doc"]
            ((url,),) = lines[2:]
            names = [f"{number:032x}" for number in range(10_000)]
            body = {"solutions": [{"name": n, "solution": answer("doc", n)} for n in names]}
            reply = httpx.post(f"{url}/u/doc/solution", json=body, timeout=300).json()
            assert reply["passcode"] == lines[1][1]
            assert httpx.get(f"{url}/u/biff/", timeout=300).status_code == 404
        finally:
            host.terminate()


def test_every_promise_of_reliability_has_its_test() -> None:
    rows = re.findall(
        r"^\| .* \| `(tests/[\w/]+\.py)::(\w+)` \|$",
        (ROOT / "docs" / "reliability.md").read_text(),
        re.MULTILINE,
    )
    assert len(rows) > 20
    for file, name in rows:
        assert f"def {name}(" in (ROOT / file).read_text(), (file, name)


RESULTS = ROOT / "benchmarks" / "results"
# experiments.md is a log; later runs replace the results files of its earlier rows.
CITING = [page for page in PAGES if page.name != "experiments.md"]
_FIGURE = re.compile(r"\d+\.\d+|\d+(?=(?:(?: to| and| instead of|, then)? \d[\d.]*)* %)")


def figures_of_results(name: str) -> set[str]:
    """All numbers of a results file, rounded to at most two decimals.

    The line with the command, the commit and the versions does not count.
    """
    lines = (RESULTS / f"{name}.md").read_text("utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("`"))
    numbers = re.findall(r"\d+(?:\.\d+)?", text)
    return {f"{float(number):.{decimals}f}" for number in numbers for decimals in (0, 1, 2)}


def figures_without_result(text: str) -> list[tuple[str, list[str]]]:
    """Decimals and percentages next to links to results files that do not occur in these files.

    A figure and a link belong together if they are in the same paragraph, list item or table row.
    """
    lacking = []
    for block in re.split(r"\n\s*\n|\n(?=(?:[-|*]|\d\.) |\|)", text):
        if names := re.findall(r"results/(\w+)\.md\)", block):
            known = set[str]().union(*map(figures_of_results, names))
            lacking += [(one, names) for one in _FIGURE.findall(block) if one not in known]
    return lacking


@pytest.mark.parametrize("page", CITING, ids=lambda page: str(page.relative_to(ROOT)))
def test_figures_next_to_links_are_those_of_the_results(page: Path) -> None:
    assert figures_without_result(page.read_text("utf-8")) == []


def test_a_figure_that_no_result_holds_is_found() -> None:
    row = "| HackMIT | 98.5 to {} % | [main_table_cpu](benchmarks/results/main_table_cpu.md) |"
    assert figures_without_result(row.format("98.7")) == []
    assert figures_without_result(row.format("97.0")) == [("97.0", ["main_table_cpu"])]
