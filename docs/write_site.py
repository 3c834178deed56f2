"""Build the documentation site in build/site: make docs.

The pages are those in docs/ and those that they link to. They are gathered in the folders of the
repository, so that each link of the repository also works in the site.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

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
    cells = ((one["cell_type"], "".join(one["source"])) for one in json.loads(text)["cells"])
    parts = (text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in cells)
    return "\n\n".join(parts) + "\n"


def build() -> int:
    """Gather the pages and build the site; return the exit code."""
    if broken := gather():
        sys.stderr.write("expected links to files, got\n" + "\n".join(broken) + "\n")
        return 1
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    return subprocess.run(command, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(build())
