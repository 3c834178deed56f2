"""The files that ``make dist`` builds, and the wheel in an empty environment."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "simgan_captcha"
MOST_MEGABYTES = 260


def done(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command that must succeed, and return its output."""
    ended = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=500)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two files, built by the commands of ``make dist`` from a copy of the repository."""
    copy, recipe = tmp_path_factory.mktemp("copy"), done("make", "--dry-run", "dist", cwd=ROOT)
    build, check = re.findall(r"^\.venv/bin/((?:python -m build|twine).*)$", recipe, re.MULTILINE)
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(PACKAGE, copy / "src" / "simgan_captcha")
    for line in (build, check):
        done("sh", "-c", f"{Path(sys.executable).parent}/{line}", cwd=copy)
    return copy / "dist"


def test_both_files_hold_the_whole_package_and_no_test(dist: Path) -> None:
    (wheel,), (source,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    files = {
        path.relative_to(PACKAGE.parent).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    assert {f"simgan_captcha/{name}" for name in ("py.typed", "web/templates/read.html")} < files
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == files
    with tarfile.open(source) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"src/{name}" for name in files} | {"LICENSE", "README.md"} <= inside
    assert not any(name.startswith("tests") for name in inside)


def test_the_wheel_in_an_empty_environment_runs_the_first_example(
    dist: Path, tmp_path: Path
) -> None:
    (wheel,) = dist.glob("*.whl")
    environment = tmp_path / "environment"
    done(sys.executable, "-m", "venv", environment)
    pip, pinned = environment / "bin" / "pip", ROOT / "constraints.txt"
    done(pip, "install", "--quiet", "--constraint", pinned, wheel)
    (installed,) = environment.glob("lib/*/site-packages")
    size = sum(file.stat().st_size for file in installed.rglob("*") if file.is_file())
    assert size < MOST_MEGABYTES * 1e6
    assert not (installed / "torch").exists()
    picture = Image.new("RGB", (120, 40), "white")
    ImageDraw.Draw(picture).text((16, 2), "4071", "black", ImageFont.load_default(30))
    picture.save(tmp_path / "captcha.png")
    quickstart = (ROOT / "README.md").read_text("utf-8").partition("## Quickstart")[2]
    example = quickstart.split("```")[1].strip().splitlines()
    assert len(example) == 2
    for line in example:
        text = done("sh", "-c", f"{environment}/bin/{line}", cwd=tmp_path)
        assert text.startswith("captcha.png  4071  "), text
