"""The notebooks hold no outputs, and run at a small size."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

import simgan_captcha as sc
from tests.small_run import ASSIGNMENTS, PRETRAINED

NOTEBOOKS = Path(__file__).parents[1] / "docs" / "notebooks"
SETTINGS = [a for a in (*ASSIGNMENTS, *PRETRAINED) if not a.startswith(("scheme.", "simulator."))]


def cells(name: str) -> list[Any]:
    found: list[Any] = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text("utf-8"))["cells"]
    return found


def execute(code: str, where: str, defined: dict[str, Any]) -> None:
    """Execute a cell, and render the value of its last line as a notebook does."""
    lines = ast.parse(code)
    last = lines.body.pop() if isinstance(lines.body[-1], ast.Expr) else None
    exec(compile(lines, where, "exec"), defined)
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), where, "eval"), defined)
        assert value is None or getattr(value, "_repr_png_", value.__repr__)()


def executed(name: str, **parameters: Any) -> dict[str, Any]:
    """The names that a notebook defines when it runs with these parameters."""
    defined: dict[str, Any] = {}
    for number, cell in enumerate(cells(name)):
        if cell["cell_type"] == "code":
            execute("".join(cell["source"]), f"{name}, cell {number}", defined)
        if "parameters" in cell["metadata"].get("tags", ()):
            assert parameters.keys() <= defined.keys()
            defined |= parameters
    return defined


@pytest.mark.parametrize("name", ["learn", "simgan"])
def test_a_notebook_holds_no_outputs(name: str) -> None:
    code = [cell for cell in cells(name) if cell["cell_type"] == "code"]
    assert len(code) > 5
    assert [(cell["outputs"], cell["execution_count"]) for cell in code] == [([], None)] * len(code)
    assert {path.stem for path in NOTEBOOKS.iterdir()} == {"learn", "simgan"}


def test_a_reader_is_learned_from_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    defined = executed("learn", IMAGES=60, SETTINGS=SETTINGS)
    assert len(list(Path("captchas").iterdir())) == 60
    scheme = defined["look"].scheme
    assert (scheme.alphabet, scheme.length, scheme.background) == ("0123456789", 4, "plain")
    assert "of 60 texts are right; the run estimates" in capsys.readouterr().out
    assert len(sc.Reader("reader.onnx").read("captchas/0000.png").text) <= 4


def test_digits_are_refined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    defined = executed("simgan", REAL_IMAGES=64, STEPS=10)
    images = defined["synthetic"]
    refined = defined["refiner"](images)
    assert refined.shape == images.shape
    assert not refined.equal(images)
    assert capsys.readouterr().out.count("% of the real ones") == 2
    assert Path("digits.png").is_file()
