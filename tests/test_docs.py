"""The documentation says what is there: settings, commands, files, figures."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import typer

from simgan_captcha.cli import app

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


def test_readme_names_every_command_and_no_other() -> None:
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"simgan-captcha (\w+)", text))
    assert named == commands


@pytest.mark.parametrize(
    "page",
    ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/puzzle.md", "docs/serve.md"],
)
def test_links_lead_somewhere(page: str) -> None:
    source = ROOT / page
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", source.read_text(encoding="utf-8"))
    assert [t for t in targets if not (source.parent / t).exists()] == []


def test_architecture_names_every_module() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    package = ROOT / "src" / "simgan_captcha"
    modules = [p.name for p in package.glob("*.py") if not p.name.startswith("__")]
    assert [name for name in modules if f"`{name}`" not in text] == []
