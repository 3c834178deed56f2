"""The import rules hold (``make test`` runs lint-imports), and violations are detected."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "simgan_captcha"

# Modules that may know the truth, or show it after judging.
KNOWING = {
    "cli/__init__.py",
    "cli/judge.py",
    "cli/puzzle.py",
    "cli/teach.py",
    "evaluation/judge.py",
    "evaluation/judgement.py",
    "evaluation/labels.py",
    "pipeline/run_folder.py",
    "report/charts.py",
    "report/inputs.py",
    "report/judged.py",
    "report/report.py",
    "teaching/labels.py",
}


# Public functions that have a parameter for each option.
OF_MANY_OPTIONS = {
    *("api/learning.py:learn", "cli/learn.py:run", "cli/read.py:read", "puzzle/server.py:serve")
}


def lint_imports(folder: Path) -> dict[str, str]:
    """KEPT or BROKEN for each contract."""
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    found = dict(re.findall(r"^(.+) (KEPT|BROKEN)(?: \(.*\))?$", done.stdout, re.MULTILINE))
    assert found, done.stdout + done.stderr
    assert (done.returncode == 0) == (set(found.values()) == {"KEPT"})
    return found


@pytest.mark.parametrize(
    ("module", "violation", "contract"),
    [
        ("simgan/planted.py", "from simgan_captcha import scheme", "simgan/ knows nothing"),
        ("simgan/planted.py", "import simgan_captcha.recognizer.network", "simgan/ knows nothing"),
        ("simgan/planted.py", "import simgan_captcha.training.streams", "simgan/ knows nothing"),
        ("simgan/planted.py", "import simgan_captcha.puzzle.answers", "nothing that learns"),
        (
            "recognizer/planted.py",
            "from simgan_captcha.puzzle.answers import answer",
            "nothing that learns",
        ),
        (
            # An indirect import inside a function.
            "training/streams.py",
            "def late():\n    from simgan_captcha.evaluation.judge import puzzle_truth",
            "nothing that learns",
        ),
        (
            "calibration/summary.py",
            "import simgan_captcha.evaluation.judge",
            "nothing that learns",
        ),
        ("pipeline/run.py", "import simgan_captcha.teaching.teach", "rooms import only"),
        (
            "api/reading.py",
            "import simgan_captcha.teaching.labels",
            "nothing that learns",
        ),
        (
            "recognizer/planted.py",
            "import simgan_captcha.web.corrections",
            "nothing that learns",
        ),
        (
            "pipeline/stages/final_readings.py",
            "import simgan_captcha.web.app",
            "nothing that learns",
        ),
        (
            "evaluation/audit/measure.py",
            "import simgan_captcha.evaluation.judge",
            "nothing that learns",
        ),
        (
            "evaluation/audit/planted.py",
            "import simgan_captcha.evaluation.labels",
            "nothing that learns",
        ),
        ("api/planted.py", "import simgan_captcha.evaluation.judge", "nothing that learns"),
        ("web/planted.py", "import simgan_captcha.puzzle.answers", "the page in the browser"),
        ("web/planted.py", "import simgan_captcha.puzzle.answers", "only judging"),
        ("web/planted.py", "import simgan_captcha.teaching.teach", "rooms import only"),
        ("web/planted.py", "import simgan_captcha.evaluation.labels", "the page in the browser"),
        (
            "puzzle/planted.py",
            "import simgan_captcha.simulator.glyphs",
            "the puzzle never gets",
        ),
        ("inference/planted.py", "import torch", "reading imports no torch"),
        # Imports from a higher layer and from the same layer.
        ("data/planted.py", "import simgan_captcha.simulator.glyphs", "rooms import only"),
        ("recognizer/planted.py", "import simgan_captcha.simgan", "rooms import only"),
        ("simulator/planted.py", "import simgan_captcha.calibration.look", "rooms import only"),
    ],
)
def test_a_planted_violation_breaks_its_contract(
    tmp_path: Path, module: str, violation: str, contract: str
) -> None:
    shutil.copytree(PACKAGE, tmp_path / "simgan_captcha")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "simgan_captcha" / module).open("a") as file:
        file.write(f"\n{violation}\n")
    broken = [name for name, state in lint_imports(tmp_path).items() if state == "BROKEN"]
    assert any(name.startswith(contract) for name in broken), broken


def test_the_walls_stand(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "simgan_captcha")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    assert set(lint_imports(tmp_path).values()) == {"KEPT"}


def test_nothing_that_learns_names_the_answer_rule() -> None:
    """The linter cannot see dynamic imports or a copy of the rule, so this searches the source."""
    learning = [
        path
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).as_posix() not in KNOWING and path.parent.name != "puzzle"
    ]
    assert {path.relative_to(PACKAGE).as_posix() for path in learning} >= {
        "api/learning.py",
        "pipeline/run.py",
        "calibration/calibrate.py",
        "recognizer/train.py",
        "recognizer/adapt.py",
        "training/streams.py",
    }
    for path in learning:
        text = path.read_text("utf-8")
        for forbidden in ("puzzle.answers", "import_module", "__import__", "md5", "judgement.json"):
            assert forbidden not in text, f"{path} holds {forbidden}"
        assert not re.search(r"import .*\b(puzzle|judge|answers)\b", text), path
        assert not re.search(r"from simgan_captcha\.(puzzle|evaluation\.(judge|labels))\b", text), (
            path
        )


def test_a_room_that_no_layer_names_is_found(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "simgan_captcha")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "simgan_captcha" / "planted.py").touch()
    assert lint_imports(tmp_path)["rooms import only from the floors below"] == "BROKEN"


def test_no_room_holds_more_than_twelve_entries() -> None:
    for room in PACKAGE.iterdir():
        if room.is_dir() and room.name != "__pycache__":
            entries = {path.name for path in room.iterdir()} - {"__init__.py", "__pycache__"}
            assert len(entries) <= 12, (room.name, sorted(entries))


def functions(text: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    given = function.args
    named = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
    return [one.arg for one in named if one is not None and one.arg not in ("self", "cls")]


def test_files_and_functions_are_short() -> None:
    for path in PACKAGE.rglob("*.py"):
        name, text = path.relative_to(PACKAGE).as_posix(), path.read_text("utf-8")
        assert len(text.splitlines()) <= 400, name
        for function in functions(text):
            where = f"{name}:{function.name}"
            assert function.end_lineno is not None
            assert function.end_lineno - function.lineno < 70, where
            assert len(parameters(function)) <= 8 or where in OF_MANY_OPTIONS, where


def test_nothing_but_the_page_and_teaching_names_where_corrections_are_kept() -> None:
    """Corrections are labels of real images, in the folder of the run that learns."""
    naming = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if re.search(r"corrections|[\"']review\b", path.read_text("utf-8"))
    }
    assert naming == {"cli/teach.py", "web/app.py", "web/corrections.py", "web/jobs/lessons.py"}


def test_the_page_never_names_the_answer_rule() -> None:
    for path in (PACKAGE / "web").rglob("*.py"):
        assert not re.search(
            r"from simgan_captcha\.(puzzle|evaluation\.(judge|labels))\b", path.read_text("utf-8")
        ), path
