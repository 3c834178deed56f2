"""The documentation site is built without a warning, and its pages lead somewhere."""

import json
import re
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

import simgan_captcha
from tests.test_docs import load

ROOT = Path(__file__).parents[1]


def leaves(navigation: Any) -> Iterator[str]:
    """The pages of a navigation."""
    for entry in navigation:
        for value in entry.values():
            yield from [value] if isinstance(value, str) else leaves(value)


PAGES = list(leaves(tomllib.loads((ROOT / "zensical.toml").read_text("utf-8"))["project"]["nav"]))


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    return load(ROOT / "docs" / "write_site.py")


class Addresses(HTMLParser):
    """The addresses that a page links to or loads."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.linked, self.loaded = set[str](), set[str]()
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name in ("href", "src"):
                (self.linked if tag == "a" else self.loaded).add(value)


def test_the_navigation_names_every_page_of_docs(site: Path) -> None:
    for page in PAGES:
        name = "index" if Path(page).name == "README.md" else Path(page).stem
        assert (site / page).with_name(f"{name}.html").is_file(), page
    pages = [*ROOT.glob("docs/*.md"), *ROOT.glob("docs/notebooks/*.ipynb")]
    assert {str(p.relative_to(ROOT).with_suffix(".md")) for p in pages} <= set(PAGES)


def test_every_link_of_the_site_leads_to_a_file(site: Path) -> None:
    pages = [page for page in site.rglob("*.html") if page.name != "404.html"]
    assert len(pages) > 40
    for page in pages:
        addresses = Addresses(page)
        for address in addresses.linked | addresses.loaded:
            parts = urlsplit(address)
            if not parts.scheme and parts.path:
                assert (page.parent / unquote(parts.path)).exists(), (page, address)


def test_the_pages_load_nothing_from_other_servers(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert [a for a in Addresses(page).loaded if urlsplit(a).netloc] == [], page


def test_the_python_page_describes_every_public_name(site: Path) -> None:
    text = (site / "docs" / "python.html").read_text("utf-8")
    described = set(re.findall(r'id="simgan_captcha\.([\w.]+)"', text))
    public = {name for name in simgan_captcha.__all__ if name not in ("__version__", "simgan")}
    assert public | {"Run.estimate", "Reader.read", "Scheme.alphabet"} <= described
    assert {f"simgan.{name}" for name in ("train", "SimGANSettings.steps")} <= described
    assert ":::" not in text  # every reference was found
    table = (ROOT / "docs" / "python.md").read_text("utf-8")
    assert {f"`{name}`" for name in [*public, "simgan"]} <= set(re.findall(r"`\w+`", table))


def test_the_outputs_of_a_notebook_are_on_its_page(writer: ModuleType, tmp_path: Path) -> None:
    printed = {"output_type": "stream", "name": "stdout", "text": ["72 of\n", "100\n"]}
    value = {"output_type": "execute_result", "data": {"text/plain": ["'ab'"]}}
    picture = {"output_type": "execute_result", "data": {"image/png": "iVBO\nRw==\n"}}
    cells = [
        {"cell_type": "markdown", "source": ["## Read\n", "now"]},
        {"cell_type": "code", "source": ["# Two captchas\n", "x"], "outputs": [printed, value]},
        {"cell_type": "code", "source": ["# Three captchas\n", "y"], "outputs": [picture]},
    ]
    notebook = tmp_path / "a.ipynb"
    notebook.write_text(json.dumps({"cells": cells}))
    assert writer.page_of(notebook) == (
        "## Read\nnow\n\n```python\n# Two captchas\nx\n```\n\n```text\n72 of\n100\n```\n\n"
        "```text\n'ab'\n```\n\n```python\n# Three captchas\ny\n```\n\n"
        "![Three captchas](data:image/png;base64,iVBORw==)\n"
    )


def test_a_link_that_leads_nowhere_stops_the_build(
    writer: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "data.json").write_text("{}")
    (tmp_path / "docs" / "site.css").write_text("")
    (tmp_path / "README.md").write_text("[a](docs/a.md) [b](data.json) [c](https://x.y) [d](#d)")
    (tmp_path / "docs" / "a.md").write_text("[up](../README.md#d) [gone](../gone.json)")
    monkeypatch.setattr(writer, "ROOT", tmp_path)
    gathered = tmp_path / "gathered"
    assert writer.gather(gathered) == [f"{tmp_path / 'docs' / 'a.md'}: ../gone.json"]
    names = ("README.md", "data.json", "docs/a.md", "docs/site.css")
    assert {str(p.relative_to(gathered)) for p in gathered.rglob("*.*")} == set(names)
