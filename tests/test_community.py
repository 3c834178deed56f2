"""The files for contributors and for citation are what their readers expect."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import simgan_captcha

ROOT = Path(__file__).parents[1]


def parsed(*path: str) -> Any:
    return yaml.safe_load(ROOT.joinpath(*path).read_text("utf-8"))


def test_the_citation_names_this_version_and_the_paper() -> None:
    citation = parsed("CITATION.cff")
    required = {"cff-version", "message", "title", "authors", "version", "license", "references"}
    assert required <= citation.keys()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert citation["version"] == project["version"] == simgan_captcha.__version__
    assert citation["license"] == project["license"]
    (paper,) = citation["references"]
    assert "1612.07828" in paper["url"]


def test_pre_commit_checks_what_make_test_checks() -> None:
    recipe = (ROOT / "Makefile").read_text("utf-8").partition("\ntest: ")[2].partition("\n\n")[0]
    of_make = {line.partition("/")[2].replace(" --check .", "") for line in recipe.split("\n\t")}
    ((repository),) = parsed(".pre-commit-config.yaml")["repos"]
    hooks = {hook["entry"].partition(".venv/bin/")[2] for hook in repository["hooks"]}
    of_make = {check.removesuffix(" .") for check in of_make if check and "pytest" not in check}
    assert {hook.removesuffix(" --force-exclude") for hook in hooks} == of_make - {"browser"}


@pytest.mark.parametrize("name", ["bug", "badly-read", "question"])
def test_an_issue_form_asks_for_something(name: str) -> None:
    form = parsed(".github", "ISSUE_TEMPLATE", f"{name}.yml")
    assert form["name"]
    assert form["description"]
    for field in form["body"]:
        assert field["type"] in ("markdown", "textarea", "input", "checkboxes")
        assert field["attributes"].get("label") or field["attributes"].get("value")
    required = [one for one in form["body"] if one.get("validations", {}).get("required")]
    assert required
