"""Faults of docs/reliability.md on a real run: damaged files, odd names, secrets in addresses."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from simgan_captcha.inference.readings import Reading, load_readings
from simgan_captcha.pipeline.progress import StageProgress
from simgan_captcha.pipeline.run_folder import READINGS
from tests.commands import COMMAND, command, kill_when, real_command
from tests.data.misbehaving_server import MisbehavingServer
from tests.fuzz import fuzz
from tests.small_run import draw_captchas, pipeline, run_arguments, write_challenges

TINY = ("recognizer.images=raw", "adaptation.steps=0", "recognizer.steps=40")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[Reading]]:
    """A finished run, its challenges in the home folder of alice, and its readings."""
    folder = tmp_path_factory.mktemp("home") / "alice"
    write_challenges(folder / "batches", draw_captchas())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        readings = pipeline(folder / "run", folder / "batches", *TINY)
        assert command("report", folder / "run").code == 0
    return folder / "run", folder / "batches", readings


@pytest.fixture
def run(made: tuple[Path, Path, list[Reading]], tmp_path: Path) -> Path:
    return shutil.copytree(made[0], tmp_path / "run")


class Warned(StageProgress):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.warnings: list[str] = []

    def warn(self, line: str) -> None:
        self.warnings.append(line)


# Checkpoints


def killed_in_training(run: Path, challenges: Path) -> Path:
    """Kill a run after some training steps, and return its checkpoint."""
    checkpoint = run / "read" / "checkpoint.safetensors"
    with subprocess.Popen([*COMMAND, *run_arguments(run, challenges, *TINY)]) as process:
        kill_when(process, checkpoint, 0)
    assert checkpoint.exists()
    (run / "read" / "manifest.json").unlink(missing_ok=True)
    return checkpoint


def test_a_run_goes_on_from_before_a_damaged_checkpoint(
    tmp_path: Path,
    made: tuple[Path, Path, list[Reading]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(made[1].parent))
    checkpoint = killed_in_training(tmp_path / "run", made[1])
    whole = checkpoint.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-5] + bytes([whole[-5] ^ 64]) + whole[-4:]):
        checkpoint.write_bytes(damaged)
        shutil.rmtree(tmp_path / "run" / "readings", ignore_errors=True)
        (tmp_path / "run" / "read" / "manifest.json").unlink(missing_ok=True)
        progress = Warned()
        assert pipeline(tmp_path / "run", made[1], *TINY, progress=progress) == made[2]
        (said,) = [line for line in progress.warnings if "checkpoint" in line]
        assert "was damaged and is set aside as checkpoint.safetensors.damaged" in said
        assert "begins again from its start" in said


def test_read_tells_a_reader_that_changed_since(run: Path, tmp_path: Path) -> None:
    image = tmp_path / "a.jpg"
    image.write_bytes(draw_captchas(1)[0][0])
    reader = run / "read" / "recognizer.safetensors"
    whole = reader.read_bytes()
    assert command("read", run, image).code == 0
    reader.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    command("read", run, image).error(1, "not as the stage left it", "which makes again")


@pytest.mark.parametrize(
    "name", ["run.json", "finished.json", "read/manifest.json", "readings/diagnosis.json"]
)
@pytest.mark.parametrize("content", ["deep", "list", "lacks"])
def test_json_of_others_gives_one_line(run: Path, tmp_path: Path, name: str, content: str) -> None:
    image = tmp_path / "a.jpg"
    image.write_bytes(draw_captchas(1)[0][0])
    (run / name).write_text(
        {"deep": '{"a": ' + "[" * 100_000, "list": "[1]", "lacks": "{}"}[content]
    )
    command("read", run, image).error(1, "expected")


# The server closes connections in the middle of uploads, and Python then closes their files.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_changed_input_gives_a_traceback(run: Path, tmp_path: Path) -> None:
    """A few of the cases of `tests.fuzz`, of every kind."""
    (tmp_path / "files").mkdir()
    counts, failures = fuzz(run, tmp_path / "files", cases=120)
    assert not failures, failures
    assert len(counts) == 13
    assert sum(counts.values()) >= 100


# Names, standard input, terminals


def test_names_that_are_not_utf_8_and_steer_terminals(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    jpeg = draw_captchas(1)[0][0]
    for name in (b"latin\xe9.jpg", b"esc\x1b[31m.jpg", b"=1+1.jpg", b"-line\nfeed.jpg"):
        (folder / os.fsdecode(name)).write_bytes(jpeg)
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    for option in ([], ["--csv"], ["--json"], ["--parquet", str(tmp_path / "out.parquet")]):
        outcome = real_command("read", run, folder, *option, env=strict)
        assert outcome.code == 0, outcome.err
        if not option:
            assert "\x1b" not in outcome.out
            assert len(outcome.out.splitlines()) == 4


def test_what_is_no_image_on_standard_input(run: Path) -> None:
    for given, said in ((b"PK\x03\x04\0\0", "got a zip"), (b"", "got nothing"), (b"x\0y\n", "")):
        done = subprocess.run(
            [*COMMAND, "read", str(run), "-"], input=given, capture_output=True, timeout=200
        )
        assert done.returncode != 0
        assert b"Traceback" not in done.stderr
        assert said in done.stderr.decode()


# Private data in a run that is shared


def everything_in(run: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file())


def test_the_home_folder_is_nowhere_in_a_run(made: tuple[Path, Path, list[Reading]]) -> None:
    run, challenges, _ = made
    assert json.loads((run / "run.json").read_text())["challenges"] == "~/batches"
    assert str(challenges.parent).encode() not in everything_in(run)


def test_a_run_goes_on_with_the_folder_it_recorded(
    made: tuple[Path, Path, list[Reading]], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(made[1].parent))
    arguments = run_arguments(run, made[1], *TINY)
    del arguments[2:4]  # removes --challenges
    outcome = command(*arguments)
    assert outcome.code == 0, outcome.err
    assert load_readings(run / READINGS) == made[2]


def test_a_token_is_nowhere_in_a_run(
    server: MisbehavingServer, made: tuple[Path, Path, list[Reading]], tmp_path: Path
) -> None:
    """This holds even if the download fails."""
    url = httpx.URL(server.url).copy_with(username="me", password="pw0rd")
    address = f"{str(url).rstrip('/')}/{{n}}?token=s3cr3t"
    outcome = command(
        *run_arguments(tmp_path / "run", address, *TINY, "batches=2", "download.attempts=1")
    )
    assert "s3cr3t" not in outcome.out + outcome.err
    kept = everything_in(tmp_path / "run")
    assert b"token=***" in kept
    assert b"s3cr3t" not in kept
    assert b"pw0rd" not in kept
