"""The files that are installed with the package, and what each extra adds."""

import json
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image, ImageDraw, ImageFont

from simgan_captcha.recognizer.export import export_reader
from simgan_captcha.recognizer.network import RecognizerArchitecture, build_recognizer
from simgan_captcha.scheme import BackgroundKind, Scheme
from tests.commands import Outcome, recorded
from tests.small_run import SCHEME, shaded

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


def test_git_ignores_no_source() -> None:
    """A pattern for a folder of results can match a package of the same name."""
    ignored = subprocess.run(
        ["git", "check-ignore", "--no-index", "--stdin"],
        cwd=ROOT,
        input="\n".join(str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*.py")),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ignored.stdout, ignored.stderr) == ("", "")


# Extras


def requirements(*extras: str) -> list[str]:
    """The requirements in pyproject.toml, without extras or with some."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    asked = list(project["dependencies"])
    for extra in extras:
        for requirement in project["optional-dependencies"][extra]:
            own = re.fullmatch(r"simgan-captcha\[([\w,]+)\]", requirement)
            asked += requirements(*own[1].split(",")) if own else [requirement]
    return asked


@cache
def absent_modules(*extras: str) -> set[str]:
    """Modules that are installed here, but would be absent with these extras alone."""
    pending = [Requirement(asked) for asked in requirements(*extras)]
    present = {canonicalize_name("simgan-captcha")}
    while pending:
        asked = pending.pop()
        name = canonicalize_name(asked.name)
        if name in present or (asked.marker and not asked.marker.evaluate({"extra": ""})):
            continue
        present.add(name)
        pending += map(Requirement, metadata.requires(name) or ())
    return {
        module
        for module, distributions in metadata.packages_distributions().items()
        if not present & {canonicalize_name(name) for name in distributions}
    }


def installed_with(extras: tuple[str, ...], code: str, *arguments: str | Path) -> Outcome:
    """Run Python code that can import only what these extras install."""
    script = (
        "import sys\n"
        f"absent = {absent_modules(*extras)!r}\n"
        "class Others:\n"
        "    def __init__(self, finder):\n"
        "        self.finder = finder\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] not in absent:\n"
        "            return self.finder.find_spec(name, path, target)\n"
        f"sys.meta_path[:] = map(Others, sys.meta_path)\n{code}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=300
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


COMMAND_LINE = "from simgan_captcha.cli import main; main()"


def exported_reader(path: Path, scheme: Scheme) -> Path:
    architecture = RecognizerArchitecture(
        scheme.height, scheme.width, scheme.max_length, 4, channels=(4, 4, 4, 4, 8)
    )
    images = np.zeros((2, scheme.height, scheme.width), np.uint8)
    export_reader(path, build_recognizer(architecture).eval(), shaded(), scheme, images)
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_reader(tmp_path_factory.mktemp("exported") / "reader.onnx", SCHEME)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of 42 in the size that the exported reader takes."""
    return drawn(tmp_path_factory.mktemp("image") / "image.png", "42")


def drawn(path: Path, text: str) -> Path:
    picture = Image.new("RGB", (SCHEME.width, SCHEME.height), "white")
    ImageDraw.Draw(picture).text((8, 0), text, "black", ImageFont.load_default(20))
    picture.save(path)
    return path


def test_the_light_install_lacks_what_only_learning_needs() -> None:
    assert {"torch", "lightning_fabric", "tensorboard", "matplotlib", "fastapi", "uvicorn"} | {
        *("onnx", "numba", "scipy", "pyarrow", "ray", "httpx", "jinja2", "sympy", "cv2")
    } <= absent_modules()
    assert absent_modules("all") & {"torch", "fastapi", "ray", "pyarrow"} == set()


def test_the_light_install_reads(image: Path, exported: Path) -> None:
    assert "Usage" in installed_with((), COMMAND_LINE, "--help").out
    options = ["--alphabet", "0123456789"]
    for sources in ([image], [image.parent]):
        read = installed_with((), COMMAND_LINE, "read", *sources, *options)
        assert (read.code, read.err) == (0, "")
        assert f"{image}  42  " in read.out
    for form in ("--json", "--csv"):
        read = installed_with((), COMMAND_LINE, "read", exported, image, form)
        assert (read.code, read.err) == (0, "")
        assert str(image) in read.out
    python = (
        "import simgan_captcha as sc\n"
        "print(sc.read(sys.argv[1], alphabet='0123456789').text)\n"
        "print(len(sc.Reader(sys.argv[2]).read(sys.argv[1]).character_confidence))\n"
    )
    assert installed_with((), python, image, exported).out.split() == ["42", "2"]


@pytest.mark.parametrize("background", ["plain", "varying"])
def test_the_light_install_reads_images_of_other_backgrounds_and_sizes(
    tmp_path: Path, image: Path, background: BackgroundKind
) -> None:
    with Image.open(image) as picture:
        picture.resize((77, 41)).save(tmp_path / "large.png")
    scheme = SCHEME.model_copy(update={"background": background})
    file = exported_reader(tmp_path / "reader.onnx", scheme)
    read = installed_with((), COMMAND_LINE, "read", file, tmp_path / "large.png", "--json")
    assert (read.code, read.err) == (0, "")
    assert len(json.loads(read.out)["readings"][0]["text"]) == SCHEME.length


def test_the_light_install_inspects_images(tmp_path: Path) -> None:
    for text in ("42", "71", "38", "96"):
        drawn(tmp_path / f"{text}.png", text)
    python = "import simgan_captcha as sc; print(sc.inspect(sys.argv[1]).scheme.width)"
    inspected = installed_with((), python, tmp_path)
    assert (inspected.out, inspected.err) == (f"{SCHEME.width}\n", "")


@pytest.mark.parametrize(
    ("extra", "arguments"),
    [
        ("learn", ["run", "RUN", "--images", "FOLDER"]),
        ("learn", ["init", "FOLDER", "my.toml"]),
        ("learn", ["report", "RUN"]),
        ("serve", ["serve", "RUN"]),
        ("serve", ["puzzle"]),
        ("serve", ["demo", "RUN"]),
        ("label", ["label", "READER", "IN", "OUT"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_command_without_its_extra_says_what_to_install(
    tmp_path: Path, image: Path, extra: str, arguments: list[str]
) -> None:
    places: dict[str, str | Path] = {
        "FOLDER": image.parent,
        "RUN": tmp_path / "run",
        "my.toml": tmp_path / "my.toml",
    }
    given: list[str | Path] = [places.get(argument, argument) for argument in arguments]
    outcome = installed_with((), COMMAND_LINE, *given)
    outcome.error(
        2,
        rf"^error: expected the extra '{extra}' for simgan-captcha {arguments[0]}, it is not "
        rf"installed; run pip install 'simgan-captcha\[{extra}\]'$",
    )
    assert list(tmp_path.iterdir()) == []


def test_the_light_install_says_what_parquet_runs_and_python_need(
    tmp_path: Path, image: Path
) -> None:
    parquet: list[str | Path] = ["--parquet", tmp_path / "out.parquet"]
    installed_with((), COMMAND_LINE, "read", image, *parquet).error(2, r"\[label\]")
    recorded(tmp_path / "run", "nowhere")
    read = installed_with((), COMMAND_LINE, "read", tmp_path / "run", image)
    read.error(2, r"expected the extra 'learn' for the reader of a run")
    learn = (
        "import simgan_captcha as sc\n"
        "try:\n"
        "    sc.learn([sys.argv[1]] * 2, alphabet='0123456789', length=2)\n"
        "except sc.SimganCaptchaError as error:\n"
        "    print(error)\n"
    )
    outcome = installed_with((), learn, image)
    assert "expected the extra 'learn' for learning" in outcome.out, outcome.err


@pytest.mark.parametrize(
    ("extra", "modules"),
    [
        ("label", ["inference.label", "pipeline.progress", "data.store"]),
        (
            "learn",
            [
                *("pipeline.run", "report.report", "evaluation.judge", "evaluation.audit.figures"),
                *("evaluation.audit.page", "teaching.teach", "teaching.terminal", "puzzle.client"),
                *("web.corrections", "recognizer.export", "simulator.wide.drawing", "simgan.api"),
                *("cli.scheme_file", "generalist.pretraining.export"),
            ],
        ),
        ("serve", ["web.server", "web.app", "puzzle.server", "puzzle.app", "pipeline.run"]),
    ],
)
def test_an_extra_holds_all_that_its_commands_import(extra: str, modules: list[str]) -> None:
    code = "\n".join(f"import simgan_captcha.{module}" for module in modules)
    outcome = installed_with((extra,), code)
    assert outcome.code == 0, outcome.err
