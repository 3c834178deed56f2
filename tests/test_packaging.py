"""What the package needs besides its modules is installed with it."""

import tomllib
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "simgan_captcha"


def test_every_file_of_the_package_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["simgan_captcha"]
    files = [
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix != ".py" and path.parent.name != "__pycache__"
    ]
    assert len(files) > 5
    left_out = [
        file
        for file in files
        if not any(fnmatch(f"/{file}", p) or fnmatch(file, p) for p in patterns)
    ]
    assert left_out == []
