"""The walls between modules stand (``make test`` runs lint-imports), and would fall loudly."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "simgan_captcha"

# What may know the truth, or shows it once somebody has judged.
KNOWING = {
    "judge.py",
    "cli.py",
    "report.py",
    "report_inputs.py",
    "report_judged.py",
    "charts.py",
    "run_folder.py",
}


def lint_imports(folder: Path) -> dict[str, str]:
    """KEPT or BROKEN, by the name of the contract."""
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
        ("simgan/planted.py", "import simgan_captcha.reader.network", "simgan/ knows nothing"),
        ("simgan/planted.py", "import simgan_captcha.puzzle.answers", "nothing that learns"),
        (
            "reader/planted.py",
            "from simgan_captcha.puzzle.answers import answer",
            "nothing that learns",
        ),
        (
            # Late and by a detour, as one would in a hurry.
            "streams.py",
            "def late():\n    from simgan_captcha.judge import puzzle_truth",
            "nothing that learns",
        ),
        ("calibration/summary.py", "import simgan_captcha.judge", "nothing that learns"),
        ("reader/planted.py", "import simgan_captcha.web.corrections", "nothing that learns"),
        ("final_readings.py", "import simgan_captcha.web.app", "nothing that learns"),
        ("web/planted.py", "import simgan_captcha.puzzle.answers", "the page in the browser"),
        ("puzzle/planted.py", "import simgan_captcha.simulator", "the puzzle never gets"),
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
    """Nor could reach it past the linter: by its text, its hash, or an import made of strings."""
    learning = [
        path
        for path in PACKAGE.rglob("*.py")
        if path.name not in KNOWING and path.parent.name != "puzzle"
    ]
    assert {path.name for path in learning} >= {
        "pipeline.py",
        "calibration.py",
        "training.py",
        "adaptation.py",
        "streams.py",
    }
    for path in learning:
        text = path.read_text("utf-8")
        for forbidden in ("puzzle.answers", "import_module", "__import__", "md5", "judgement.json"):
            assert forbidden not in text, f"{path} holds {forbidden}"
        assert not re.search(r"import .*\b(puzzle|judge|answers)\b", text), path
        assert not re.search(r"from simgan_captcha\.(puzzle|judge)\b", text), path


def test_nothing_but_the_page_names_where_corrections_are_kept() -> None:
    """They are labels of real images, in the very folder of the run that learns."""
    naming = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if re.search(r"corrections|[\"']review\b", path.read_text("utf-8"))
    }
    assert naming == {"web/app.py", "web/corrections.py"}


def test_the_page_never_names_the_answer_rule() -> None:
    for path in (PACKAGE / "web").glob("*.py"):
        assert not re.search(r"from simgan_captcha\.(puzzle|judge)\b", path.read_text("utf-8")), (
            path
        )
