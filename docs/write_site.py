"""Build the documentation site in build/site: make docs.

The pages are those in docs/ and those that they link to. They are gathered in the folders of the
repository, so that each link of the repository also works in the site.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "build" / "site-source"
"""The gathered pages. The settings in zensical.toml name this folder."""

_LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")
_REFERENCE = re.compile(r"^<!-- (::: [\w.]+) -->$", re.MULTILINE)
"""A name that mkdocstrings documents. GitHub hides it as a comment."""


def gather(source: Path = SOURCE) -> list[str]:
    """Copy the pages and all files that they link to; return the links that lead to no file."""
    shutil.rmtree(source, ignore_errors=True)
    docs = ROOT / "docs"
    pending = [ROOT / "README.md", docs / "site.css", *docs.glob("*.md"), *docs.rglob("*.ipynb")]
    gathered, broken = set[Path](), list[str]()
    while pending:
        path = pending.pop()
        if path in gathered:
            continue
        gathered.add(path)
        place = source / path.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix not in (".md", ".ipynb"):
            shutil.copyfile(path, place)
            continue
        page = page_of(path)
        links = {link: (path.parent / link).resolve() for link in _LINK.findall(page)}
        broken += [f"{path}: {link}" for link, target in links.items() if not target.is_file()]
        pending += [target for target in links.values() if target.is_file()]
        linked = re.sub(r"(\]\([^):]+)\.ipynb", r"\1.md", page)
        place.with_suffix(".md").write_text(linked, encoding="utf-8")
    return broken


def page_of(path: Path) -> str:
    """Markdown of a page or of a notebook."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return _REFERENCE.sub(r"\1", text)
    return "\n\n".join(part for cell in json.loads(text)["cells"] for part in _parts(cell)) + "\n"


def _parts(cell: dict[str, Any]) -> Iterator[str]:
    """Markdown of a cell of a notebook: its text, or its code and the outputs."""
    text = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield text
        return
    yield f"```python\n{text}\n```"
    for output in cell["outputs"]:
        data = output.get("data", {})
        if png := "".join("".join(data.get("image/png", "")).split()):
            # A cell that shows a picture begins with a comment that describes it.
            description = text.partition("\n")[0].removeprefix("# ")
            yield f"![{description}](data:image/png;base64,{png})"
        elif printed := "".join(output.get("text", data.get("text/plain", ""))).rstrip():
            yield f"```text\n{printed}\n```"


def build() -> int:
    """Gather the pages and build the site; return the exit code."""
    if broken := gather():
        sys.stderr.write("expected links to files, got\n" + "\n".join(broken) + "\n")
        return 1
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    return subprocess.run(command, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(build())
