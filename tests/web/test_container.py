"""The Dockerfile: its rules, the files that it copies, and the commands that its images run."""

import json
import re
import subprocess
import sys
from pathlib import Path

import httpx

from tests.web.test_server import started

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")


def test_the_dockerfile_keeps_the_rules_of_hadolint() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_docker_is_sent_all_that_is_copied_and_nothing_else() -> None:
    copied = [
        source
        for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
        for source in sources.split()
    ]
    rules = (ROOT / ".dockerignore").read_text("utf-8").split()
    assert rules[0] == "*"
    assert sorted(rule[1:] for rule in rules if rule.startswith("!")) == sorted(copied)
    assert all((ROOT / source).exists() for source in copied)


def test_both_images_run_without_root() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    of = {stage.split()[2]: (stage.split()[0], stage) for stage in stages}
    assert re.search(r"^USER [1-9]\d*$", of["base"][1], re.MULTILINE)
    for name in ("serve", "read"):
        assert of[name][0] == "base"
        assert "USER" not in of[name][1]
    assert list(of)[-1] == "read"  # docker build without --target makes the smaller one


def test_the_health_check_finds_the_server_that_the_image_starts(made: Path) -> None:
    health, command, _ = map(json.loads, re.findall(r"^ *CMD (\[.+\])$", DOCKERFILE, re.MULTILINE))
    place = command.index("/work")
    arguments = [*command[1:place], made, *command[place + 1 :], "--port", "0"]
    with started(*arguments) as (server, address):
        port = httpx.URL(address).port
        assert "http://127.0.0.1:8080/" in health[-1]
        check = [sys.executable, *health[1:-1], health[-1].replace(":8080", f":{port}")]
        assert subprocess.run(check, capture_output=True).returncode == 0
        server.kill()
        server.wait()
        assert subprocess.run(check, capture_output=True).returncode == 1
