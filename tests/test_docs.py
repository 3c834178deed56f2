"""The documentation says what is there: settings, commands, files, figures."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import httpx
import pytest
import typer

from simgan_captcha.cli import app
from simgan_captcha.data.images import MAX_BYTES, MAX_PIXELS
from simgan_captcha.puzzle import app as puzzle_app
from simgan_captcha.puzzle import submission
from simgan_captcha.puzzle.answers import answer
from simgan_captcha.serving import connection
from simgan_captcha.web import app as web_app
from simgan_captcha.web import guard

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


def test_the_hosts_script_of_the_puzzle_page_serves(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "puzzle.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```python\n(.+?)```", page, re.DOTALL)
    assert "port=8000" in script
    (tmp_path / "host.py").write_text(script.replace("port=8000", "port=0"), encoding="utf-8")
    (tmp_path / "passcode.key").write_bytes(b"k" * 32)
    with subprocess.Popen(
        [sys.executable, "host.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as host:
        assert host.stdout is not None
        try:
            lines = [host.stdout.readline().split() for _ in range(3)]
            assert [line[0] for line in lines[:2]] == ["marty", "doc"]
            ((url,),) = lines[2:]
            names = [f"{number:032x}" for number in range(10_000)]
            body = {"solutions": [{"name": n, "solution": answer("doc", n)} for n in names]}
            reply = httpx.post(f"{url}/u/doc/solution", json=body, timeout=300).json()
            assert reply["passcode"] == lines[1][1]
            assert httpx.get(f"{url}/u/biff/", timeout=300).status_code == 404
        finally:
            host.terminate()


def states(page: str, *sentences: str) -> None:
    text = " ".join((ROOT / "docs" / page).read_text(encoding="utf-8").split())
    for sentence in sentences:
        assert sentence in text, sentence


def test_the_puzzle_page_states_the_limits_that_hold() -> None:
    states(
        "puzzle.md",
        f"| a request's head | 64 KiB, {connection.HEAD_SECONDS:.0f} s |",
        f"| a submission's body | {submission.MAX_BODY_BYTES >> 20} MiB, "
        f"{submission.BODY_SECONDS:.0f} s |",
        f"| all bodies on their way | {submission.MAX_BODIES_BYTES >> 20} MiB |",
        f"| bodies checked at a time | {submission.CHECKED_AT_ONCE} |",
        f"| requests in progress | {puzzle_app.MOST_REQUESTS} |",
        f"| an answer that is not read | {connection.UNREAD_SECONDS:.0f} s |",
    )


def test_the_page_on_serving_states_the_limits_that_hold() -> None:
    states(
        "serve.md",
        f"more than {web_app.MAX_FILES} files",
        f"longer than {guard.BODY_SECONDS:.0f} s; is larger than {guard.MAX_BODY_BYTES >> 20} MiB",
        f"Limits: {web_app.MAX_FILES} files a request; {MAX_BYTES / 1e6:.0f} MB an image, "
        f"{MAX_PIXELS / 1e6:.0f} million pixels",
        f"{guard.MAX_BODIES} requests with a body at a time; {web_app.MAX_FOLLOWERS} followers",
        f"head that drips in for {connection.HEAD_SECONDS:.0f} s",
        f"does not read its answer for {connection.UNREAD_SECONDS:.0f} s",
    )


def test_the_example_is_short_and_has_no_captcha_in_it() -> None:
    lines = (ROOT / "examples" / "refine_digits.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 80
    assert [line for line in lines if "captcha" in line] == [
        "from simgan_captcha.simgan import RefinerSettings, SimGANSettings, train_refiner"
    ]
