"""The notebooks run at a small size. Only the tutorial holds outputs, those of a full run."""

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
    assert {path.stem for path in NOTEBOOKS.iterdir()} == {"learn", "simgan", "tutorial"}


def test_the_tutorial_holds_the_outputs_of_a_complete_run() -> None:
    code = [cell for cell in cells("tutorial") if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [(cell, output) for cell in code for output in cell["outputs"]]
    assert {output["output_type"] for _, output in outputs} == {"stream", "execute_result"}
    assert {output.get("name", "stdout") for _, output in outputs} == {"stdout"}  # no warnings
    pictures = [cell for cell, output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 10
    # The site uses the first line as the description of the picture.
    assert all(cell["source"][0].startswith("# ") for cell in pictures)
    assert (NOTEBOOKS / "tutorial.ipynb").stat().st_size < 200_000
    assert "".join(code[-1]["outputs"][0]["text"]).startswith("seed ")


def test_a_reader_is_learned_from_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    defined = executed("learn", IMAGES=60, SETTINGS=SETTINGS)
    assert len(list(Path("captchas").iterdir())) == 60
    scheme = defined["look"].scheme
    assert (scheme.alphabet, scheme.max_length, scheme.background) == ("0123456789", 4, "plain")
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


def test_the_tutorial_tells_the_2017_story(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = {"BATCHES": 2, "IMAGES": 40, "PRETRAIN": 2, "STEPS": 4, "CLASSIFIER": 2, "MORE": 1}
    defined = executed("tutorial", **sizes)
    assert defined["levels"].shape == (80, 50, 100)
    assert defined["background"].line_mask.any()
    assert len(defined["log"]) == 2 + 1 + 4
    assert not defined["refined"].equal(defined["raw"][:, :1])
    weights = [defined[name].what.weight for name in ("on_raw", "on_refined")]
    assert not weights[0].equal(weights[1])  # the two learned from different images
    assert {len(text) for found in defined["readings"].values() for text in found} == {4}
    assert "learned from refined images: " in capsys.readouterr().out
    assert not list(tmp_path.iterdir())  # everything was in a temporary folder
    assert not defined["work"].exists()
