import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from simgan_captcha import __version__
from simgan_captcha.cli.endings import DONE, EXIT_CODES, FAILED, IMPOSSIBLE
from simgan_captcha.cli.learn import later_settings
from simgan_captcha.config.settings import resolve_config
from simgan_captcha.inference.readings import Reading, load_readings, save_readings
from simgan_captcha.pipeline.manifest import MANIFEST, locked
from simgan_captcha.pipeline.run_folder import (
    DIAGNOSIS,
    JUDGEMENT,
    READINGS,
    read_diagnosis,
    read_run,
)
from simgan_captcha.puzzle.answers import answer
from tests.commands import COMMAND, Outcome, command, real_command, recorded
from tests.data.misbehaving_server import MisbehavingServer
from tests.data.misbehaving_server import answer as respond
from tests.drawing import encode_jpeg
from tests.small_run import (
    SCHEME,
    batch_json,
    draw_captchas,
    pipeline,
    run_arguments,
    write_challenges,
)

CAPTCHAS = draw_captchas()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, str]]:
    """A finished run, its challenges, and the true texts."""
    folder = tmp_path_factory.mktemp("made")
    truth = write_challenges(folder / "challenges", CAPTCHAS)
    pipeline(folder / "run", folder / "challenges")
    return folder / "run", folder / "challenges", truth


@pytest.fixture
def run(tmp_path: Path, made: tuple[Path, Path, dict[str, str]]) -> Path:
    return shutil.copytree(made[0], tmp_path / "run")


@pytest.fixture(scope="module")
def server() -> Iterator[MisbehavingServer]:
    with MisbehavingServer() as server:
        yield server


def labels_csv(path: Path, truth: dict[str, str]) -> Path:
    path.write_text("name,label\n" + "".join(f"{n},{text}\n" for n, text in truth.items()))
    return path


# Help.


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from simgan_captcha.cli import app\n"
        "try:\n    app(sys.argv[1:])\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code\n"
        "heavy = {'torch', 'cv2', 'numpy', 'matplotlib', 'pyarrow', 'fastapi'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
    )
    for line in ("--version", "--help", "run --help", "judge --help", "demo --help"):
        done = subprocess.run(
            [sys.executable, "-c", script, *line.split()], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_version() -> None:
    assert command("--version").out == f"simgan-captcha {__version__}\n"
    module = real_command("--version")  # python -m simgan_captcha
    assert (module.code, module.out) == (0, f"simgan-captcha {__version__}\n")
    assert command("--version", "run").code == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--version"], DONE),
        (["read", "damaged.png"], FAILED),
        (["read", "damaged.png", "--alphabet", "aa"], IMPOSSIBLE),
        (["run", "--no-such-option"], IMPOSSIBLE),
        (["no-such-command"], IMPOSSIBLE),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_exit_codes_are_those_of_the_table(
    arguments: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    assert command(*arguments).code == code
    assert code in EXIT_CODES


@pytest.mark.parametrize(
    "name",
    [
        *("init", "run", "demo", "judge", "audit", "report"),
        *("export", "read", "label", "serve", "puzzle", "submit"),
    ],
)
def test_every_command_explains_itself(name: str) -> None:
    outcome = command(name, "--help")
    assert outcome.code == 0
    assert "Usage" in outcome.out
    assert name in command("--help").out


@pytest.mark.parametrize(
    ("line", "proposed"),
    [
        ("simgan-captcha re", ["report", "read"]),
        ("simgan-captcha label --engine ", ["local", "ray"]),
        ("simgan-captcha read --par", ["--parquet"]),
        ("simgan-captcha read ima", []),  # the shell's own names of files
    ],
)
def test_the_shell_completes_commands_and_options(line: str, proposed: list[str]) -> None:
    script = (
        "import sys; sys.argv[0] = 'simgan-captcha'; from simgan_captcha.cli import main; main()"
    )
    completing = {
        "_SIMGAN_CAPTCHA_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(line.count(" ")),
    }
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=os.environ | completing
    )
    assert done.stdout.split() == proposed, done.stderr


# run


def test_run_whole_in_a_process_of_its_own(
    tmp_path: Path, made: tuple[Path, Path, dict[str, str]]
) -> None:
    finished, challenges, _ = made
    arguments = [a for a in run_arguments(tmp_path / "run", challenges) if a != "--quiet"]
    outcome = real_command(*arguments)
    assert outcome.code == 0, outcome.err
    assert outcome.out == ""  # progress is written to stderr
    for stage in ("store", "background", "simulate", "refine", "read", "adapt", "readings"):
        assert re.search(rf"^{stage} +\d+\.\d s, \d+ images, \d", outcome.err, re.MULTILINE), stage
    assert "TFLOP of training" in outcome.err
    report = tmp_path / "run" / "report.html"
    assert report.is_file()
    assert str(report) in outcome.err
    assert load_readings(tmp_path / "run" / READINGS) == load_readings(finished / READINGS)


def test_run_goes_on_without_being_told_the_challenges(
    run: Path, made: tuple[Path, Path, dict[str, str]]
) -> None:
    before = (run / "readings" / MANIFEST).stat().st_mtime_ns
    arguments = run_arguments(run, "unused")
    del arguments[2:6]  # --challenges and --user
    outcome = command(*arguments)
    assert (outcome.code, outcome.out) == (0, "")
    # So small a run has something to doubt.
    assert all(line.startswith("warning: ") for line in outcome.err.splitlines())
    assert (run / "readings" / MANIFEST).stat().st_mtime_ns == before


def test_a_relative_folder_is_the_same_folder(
    run: Path, made: tuple[Path, Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made[1].parent)
    assert command(*run_arguments(run, "challenges")).code == 0


# judge


def test_judge_by_labels(
    run: Path, tmp_path: Path, made: tuple[Path, Path, dict[str, str]]
) -> None:
    truth = made[2]
    outcome = command("judge", run, "--labels", labels_csv(tmp_path / "l.csv", truth), "--json")
    assert outcome.code == 0
    assert outcome.out.count("\n") == 1
    judgement = json.loads(outcome.out)
    assert judgement.keys() >= {
        "images",
        "captcha_accuracy",
        "character_accuracy",
        "captcha_interval",
        "per_position",
        "per_character",
        "confusions",
    }
    readings = load_readings(run / READINGS)
    right = sum(reading.text == truth[reading.name] for reading in readings)
    assert judgement["images"] == len(readings) == 240
    assert judgement["captcha_accuracy"] == pytest.approx(right / 240)
    low, high = judgement["captcha_interval"]
    assert 0 <= low <= right / 240 <= high <= 1
    assert len(judgement["per_position"]) == SCHEME.max_length
    assert json.loads((run / JUDGEMENT).read_text()) == judgement
    assert (run / "report.html").is_file()

    in_words = command("judge", run, "--labels", tmp_path / "l.csv")
    assert in_words.code == 0
    assert f"240 images: {right / 240:.2%} of captchas right" in in_words.out
    assert str(run / "report.html") in in_words.out


def test_judge_sets_the_runs_own_estimate_beside_the_truth(
    run: Path, tmp_path: Path, made: tuple[Path, Path, dict[str, str]]
) -> None:
    arguments: list[str | Path] = [
        "judge",
        run,
        "--labels",
        labels_csv(tmp_path / "l.csv", made[2]),
    ]
    diagnosis = read_diagnosis(run)
    estimate = diagnosis["estimates"][diagnosis["kept"]]
    judgement = json.loads(command(*arguments, "--json").out)
    own, truth = judgement["own_estimate"], judgement["captcha_accuracy"]
    assert {key: own[key] for key in ("accuracy", "low", "high")} == {
        key: estimate[key] for key in ("accuracy", "low", "high")
    }
    assert own["points_below"] == pytest.approx(100 * (truth - estimate["accuracy"]))

    known = {"known_accuracy": 1.0, "low": 0.0, "high": 1.0}
    for accuracy, way in ((truth - 0.012, "1.2 points below"), (truth + 0.021, "2.1 points above")):
        estimates = {"read": known | {"accuracy": accuracy}}
        (run / DIAGNOSIS).write_text(json.dumps({"kept": "read", "estimates": estimates}))
        outcome = command(*arguments)
        said = f"estimated {accuracy:.1%} (0.0% to 100.0%) without a label, {way}"
        assert said in outcome.out.splitlines()

    # Judging does not need the estimate of the run.
    (run / DIAGNOSIS).write_text("{")
    outcome = command(*arguments, "--json")
    assert outcome.code == 0
    assert json.loads(outcome.out) == judgement | {"own_estimate": None}
    assert re.search(r"^warning: .*damaged.*; delete the folder readings", outcome.err)
    (run / DIAGNOSIS).unlink()
    outcome = command(*arguments)
    assert (outcome.code, outcome.err) == (0, "")
    assert "estimated" not in outcome.out


def test_judge_by_the_answer_rule(tmp_path: Path) -> None:
    names = [f"{n:032x}" for n in range(200)]
    texts = [answer("marty", name) for name in names]
    texts[7] = texts[7][:3] + ("a" if texts[7][3] != "a" else "b")
    readings = [Reading(n, t, 0.5, (0.8,) * 4) for n, t in zip(names, texts, strict=True)]
    save_readings(tmp_path / READINGS, readings)
    recorded(tmp_path, "/nowhere")
    judgement = json.loads(command("judge", tmp_path, "--user", "marty", "--json").out)
    assert judgement["captcha_accuracy"] == 199 / 200
    assert judgement["character_accuracy"] == 799 / 800
    assert len(judgement["confusions"]) == 1
    # Of another user, all but chance is wrong.
    other = json.loads(command("judge", tmp_path, "--user", "doc", "--json").out)
    assert other["captcha_accuracy"] < 0.05


def test_judge_needs_one_kind_of_truth(run: Path, tmp_path: Path) -> None:
    command("judge", run).error(2, "--user NAME or --labels FILE.csv")
    both = command("judge", run, "--user", "x", "--labels", tmp_path / "l.csv")
    both.error(2, "either --user NAME or --labels")


@pytest.mark.parametrize(
    ("content", "code", "parts"),
    [
        ("", 2, ["header name,label, got nothing"]),
        ("name,text\na,b\n", 2, ["header name,label, got 'name,text'"]),
        ("name,label\n{name},xy\n", 2, ["lacks 'xy'"]),
        ("name,label\nnobody,ab\n", 2, ["expected"]),
    ],
)
def test_judge_by_labels_that_do_not_fit(
    run: Path, tmp_path: Path, content: str, code: int, parts: list[str]
) -> None:
    name = load_readings(run / READINGS)[0].name
    (tmp_path / "l.csv").write_text(content.format(name=name))
    command("judge", run, "--labels", tmp_path / "l.csv").error(code, *parts)


def test_judge_without_a_label_file_or_a_run(run: Path, tmp_path: Path) -> None:
    command("judge", run, "--labels", tmp_path / "none.csv").error(2, "label file at .*none.csv")
    command("judge", tmp_path / "no", "--user", "x").error(1, "expected a run in .*no.*start one")
    (run / READINGS).unlink()
    command("judge", run, "--user", "x").error(1, "expected readings at .*found none")


# read


def test_read_prints_a_row_for_each_image_in_order(
    run: Path, tmp_path: Path, made: tuple[Path, Path, dict[str, str]]
) -> None:
    paths = []
    for n in (3, 0, 5):
        paths.append(tmp_path / f"{n}.jpg")
        paths[-1].write_bytes(CAPTCHAS[n][0])
    outcome = command("read", run, *paths, "--json")
    assert outcome.code == 0
    rows = json.loads(outcome.out)["readings"]
    assert [row["name"] for row in rows] == [str(path) for path in paths]
    for row in rows:
        assert row.keys() == {"name", "text", "confidence", "character_confidence"}
        SCHEME.encode(row["text"])
        assert 0 <= row["confidence"] <= 1
        assert len(row["character_confidence"]) == SCHEME.max_length
    in_words = command("read", run, *paths)
    assert in_words.code == 0
    for row, line in zip(rows, in_words.out.splitlines(), strict=True):
        assert line.startswith(f"{row['name']}  {row['text']}  {row['confidence']:.3f}  ")


def test_read_says_what_is_wrong_with_an_image_and_reads_the_rest(
    run: Path, tmp_path: Path
) -> None:
    good, cut, large, missing = (tmp_path / f"{n}.jpg" for n in ("good", "cut", "large", "no"))
    good.write_bytes(CAPTCHAS[0][0])
    cut.write_bytes(CAPTCHAS[1][0][:-100])
    large.write_bytes(encode_jpeg(np.zeros((50, 100), np.uint8), 50))
    paths = [cut, good, large, missing]
    outcome = command("read", run, *paths, "--json")
    assert outcome.code == 1
    rows = json.loads(outcome.out)["readings"]
    assert [row["name"] for row in rows] == [str(path) for path in paths]
    assert "damaged" in rows[0]["error"]
    assert SCHEME.encode(rows[1]["text"])
    assert "48x24 pixels, got 100x50" in rows[2]["error"]
    assert rows[3]["error"] == f"expected an image at {missing}, found no file; correct the path"
    in_words = command("read", run, *paths)
    assert in_words.code == 1
    assert len(in_words.out.splitlines()) == 1
    assert len(in_words.err.splitlines()) == 3


def test_read_with_nothing_readable_or_no_run(run: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"no image")
    outcome = command("read", run, tmp_path / "x.jpg", "--json")
    assert outcome.code == 1
    assert "expected an image" in json.loads(outcome.out)["readings"][0]["error"]
    command("read", tmp_path / "no", tmp_path / "x.jpg").error(1, "expected a run in")
    assert command("read", run).code == 2


def test_read_with_an_exported_file_reads_as_the_run(
    run: Path, tmp_path: Path, made: tuple[Path, Path, dict[str, str]]
) -> None:
    exported, folder, table = (tmp_path / name for name in ("reader.onnx", "images", "out.parquet"))
    folder.mkdir()
    for n in (3, 0, 5):
        (folder / f"{n}.jpg").write_bytes(CAPTCHAS[n][0])
    (folder / "4.PNG").write_bytes(b"no image")
    (folder / "notes.txt").write_text("not looked at")
    words = command("export", run, exported).out
    assert re.search(r"reader.onnx: \d+ kB; 240 of 240 real images read as in torch", words), words
    figures = json.loads(command("export", run, exported, "--json").out)
    assert figures.pop("confidence_error") < 1e-3
    assert figures == {
        "file": str(exported),
        "bytes": exported.stat().st_size,
        "taught": 0,
        "images": 240,
        "changed": 0,
    }

    own = command("read", run, folder, "--json")
    assert own.code == 1
    rows = json.loads(own.out)["readings"]
    assert [Path(row["name"]).name for row in rows] == ["0.jpg", "3.jpg", "4.PNG", "5.jpg"]
    by_file = json.loads(command("read", exported, folder, "--json").out)["readings"]
    assert [row.get("text") for row in by_file] == [row.get("text") for row in rows]
    assert "expected an image" in by_file[2]["error"]

    lines = command("read", exported, folder, "--csv").out.splitlines()
    assert lines[0] == "name,text,confidence,character_confidence,error"
    assert [line.split(",")[1] for line in lines[1:]] == [row.get("text", "") for row in rows]
    assert command("read", exported, folder, "--parquet", table).code == 1
    written = pq.read_table(table).to_pylist()
    assert [row["text"] for row in written] == [row.get("text") for row in rows]
    assert [row["error"] is None for row in written] == [True, True, False, True]

    stored = command("read", exported, run / "store", "--json")
    assert stored.code == 0
    assert {row["name"] for row in json.loads(stored.out)["readings"]} == made[2].keys()


def test_read_from_standard_input(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "a b.jpg"
    path.write_bytes(CAPTCHAS[3][0])
    text = json.loads(command("read", run, path, "--json").out)["readings"][0]["text"]
    for given, name in ((CAPTCHAS[3][0], "-"), (f"{path}\n\n".encode(), str(path))):
        done = subprocess.run([*COMMAND, "read", run, "-"], input=given, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.decode().startswith(f"{name}  {text}  ")


def test_read_and_export_say_what_is_wrong(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    command("read", run, tmp_path / "empty").error(2, "expected images .* got none of 0 entries")
    command("read", run, "x.jpg", "--json", "--csv").error(2, "one of --json, --csv and --parquet")
    (tmp_path / "no.onnx").write_text("hello")
    command("read", tmp_path / "no.onnx", "x.jpg").error(1, "expected an exported reader at .*no")
    command("read", tmp_path / "x.onnx", "x.jpg").error(1, "found none; write one with .* export")
    command("export", tmp_path / "no", tmp_path / "x.onnx").error(1, "expected a run in")


# report


def test_report(run: Path, tmp_path: Path) -> None:
    outcome = command("report", run)
    assert (outcome.code, outcome.out.strip()) == (0, str(run / "report.html"))
    command("report", tmp_path / "no").error(1, "expected a run's folder", "/no;")


# Bad input.


def test_a_new_run_needs_challenges(tmp_path: Path) -> None:
    command("run", tmp_path / "run").error(2, "--challenges FOLDER-or-URL")
    assert not (tmp_path / "run").exists()


def test_a_folder_without_batches(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    command(*run_arguments(tmp_path / "run", tmp_path / "empty")).error(2, "empty", "expected")
    command(*run_arguments(tmp_path / "run2", tmp_path / "none")).error(2, "none", "expected")


@pytest.mark.parametrize(
    ("status", "body", "parts"),
    [
        (404, b"no such page", ["404"]),
        (500, b"broken", ["500"]),
        (200, b"<html>welcome</html>", ["JSON of a batch", "a web page"]),
        (200, b'{"images": []}', ["1 to 100000 images, got 0"]),
        (200, batch_json([("x", CAPTCHAS[0][0])])[:300], ["JSON of a batch"]),
    ],
)
def test_a_server_that_gives_no_batches(
    tmp_path: Path, server: MisbehavingServer, status: int, body: bytes, parts: list[str]
) -> None:
    server.script("/u/someone/challenge", respond(body, status))
    command(*run_arguments(tmp_path / "run", server.url, "download.attempts=1", "batches=1")).error(
        1, *parts
    )


def test_a_mistyped_user_in_the_address_can_be_mended(
    tmp_path: Path, server: MisbehavingServer
) -> None:
    for user in ("mraty", "marty"):
        arguments = ["--challenges", f"{server.url}/u/{user}/", "--quiet"]
        command("run", tmp_path, *arguments).error(1, "404")
        assert read_run(tmp_path)["user"] == user


def test_two_users_are_one_too_many(tmp_path: Path) -> None:
    address = "http://me:secret@127.0.0.1:1/u/marty/"
    outcome = command("run", tmp_path / "run", "--challenges", address, "--user", "doc")
    outcome.error(2, "captchas of 'doc'", "those of 'marty'; give --user marty")
    assert "secret" not in outcome.err
    assert not (tmp_path / "run").exists()


def test_no_server_at_all(tmp_path: Path) -> None:
    arguments = run_arguments(tmp_path / "run", "http://127.0.0.1:1", "download.attempts=1")
    command(*arguments).error(1, "127.0.0.1:1")


def test_batches_of_which_nothing_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "challenges"
    folder.mkdir()
    whole = batch_json([(f"{n}", captcha[0]) for n, captcha in enumerate(CAPTCHAS[:5])])
    (folder / "challenge-0").write_bytes(whole[: len(whole) // 2])
    command(*run_arguments(tmp_path / "run", folder)).error(1, "JSON of a batch", "challenge-0")
    large = io.BytesIO()
    Image.new("RGB", (100, 50)).save(large, "JPEG")
    (folder / "challenge-0").write_bytes(batch_json([("a", large.getvalue())]))
    command(*run_arguments(tmp_path / "run2", folder)).error(1, "48x24 pixels, got 100x50")


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("recognizer.step=5", ["'recognizer.step'", "did you mean recognizer.steps?"]),
        ("recognizer.steps=0", ["recognizer.steps: ", "greater than or equal to 1; got 0"]),
        ("recognizer.steps", ["key=value"]),
        ("scheme.alphabet=aab", ["repeats 'a'"]),
        ('simulator.fonts=["comic"]', ["font file or one of", "got 'comic'"]),
        ("scheme.alphabet=ab雪", ["lacks '雪'"]),
    ],
)
def test_settings_that_do_not_fit(
    tmp_path: Path, made: tuple[Path, Path, dict[str, str]], setting: str, parts: list[str]
) -> None:
    settings = setting.split(" --set ")
    command(*run_arguments(tmp_path / "run", made[1], *settings)).error(2, *parts)


def test_an_unknown_preset_or_option(
    tmp_path: Path, made: tuple[Path, Path, dict[str, str]]
) -> None:
    outcome = command("run", tmp_path / "run", "--challenges", made[1], "--preset", "fast")
    outcome.error(2, "quick, cpu, paper, original; got 'fast'")
    assert command("run", tmp_path / "run", "--sed", "1").code == 2
    assert command("run", tmp_path / "run", "--seed", "-1").code == 2


def test_a_run_of_other_challenges(run: Path, tmp_path: Path) -> None:
    write_challenges(tmp_path / "other", CAPTCHAS[:20], batches=1)
    command(*run_arguments(run, tmp_path / "other")).error(2, "is a run on the images of", "other")


def test_a_second_run_in_the_same_folder(
    run: Path, made: tuple[Path, Path, dict[str, str]]
) -> None:
    with locked(run):
        outcome = command(*run_arguments(run, made[1]))
    outcome.error(1, "another process is running there", "wait")


def test_a_run_that_is_a_file(tmp_path: Path, made: tuple[Path, Path, dict[str, str]]) -> None:
    (tmp_path / "run").write_text("something")
    command(*run_arguments(tmp_path / "run", made[1])).error(2, "is a file; name a folder")
    assert (tmp_path / "run").read_text() == "something"


# Trouble on the way.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB; where only root may have one, tests set limits instead."""
    mount = tmp_path / "disk"
    mount.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(mount)], capture_output=True
    )
    if mounted.returncode:
        why = mounted.stderr.decode().strip()
        pytest.skip(f"only root may mount a small file system ({why}); run as root")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_a_full_disk(small_disk: Path, made: tuple[Path, Path, dict[str, str]]) -> None:
    outcome = real_command(*run_arguments(small_disk / "run", made[1]))
    outcome.error(1, "No space left on device", "free space", "again")
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    again = command(*run_arguments(small_disk / "run", made[1]))
    assert again.code == 0, again.err
    assert load_readings(small_disk / "run" / READINGS) == load_readings(made[0] / READINGS)


@pytest.mark.parametrize("limit", [10_000, 25_000, 80_000])
def test_files_that_may_not_grow(
    tmp_path: Path, made: tuple[Path, Path, dict[str, str]], limit: int
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        outcome = command(*run_arguments(tmp_path / "run", made[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    outcome.error(1, "File too large")
    assert not list((tmp_path / "run").rglob("*.part"))


@pytest.mark.parametrize("moment", ["as it starts to train", "in training"])
def test_ctrl_c(tmp_path: Path, made: tuple[Path, Path, dict[str, str]], moment: str) -> None:
    run = tmp_path / "run"
    # With a process that draws ahead, as that gets the Ctrl-C of a terminal too.
    arguments = run_arguments(
        run, made[1], "recognizer.steps=100000", "recognizer.images=raw", "workers=1"
    )
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            metrics, deadline = run / "read" / "metrics.jsonl", time.monotonic() + 100
            least = 1000 if moment == "in training" else 0
            while not metrics.exists() or metrics.stat().st_size < least:
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.01)
            os.killpg(process.pid, signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    Outcome(process.returncode, out, err).error(1, "interrupted; run the same command again")


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    outcome = real_command("report", tmp_path / "no", "--debug")
    assert outcome.code == 1
    assert "Traceback" in outcome.err
    assert "RunError: expected a run" in outcome.err


def test_later_settings_go_before_earlier_ones_and_do_not_pile_up() -> None:
    earlier = ["recognizer.steps=5", "workers=0"]
    assert later_settings(earlier, earlier) == tuple(earlier)
    assert later_settings(earlier, ["recognizer.steps=7"]) == ("workers=0", "recognizer.steps=7")
    # One that sets a whole part overrides what was set within it before.
    whole = ['recognizer={"steps": 3}']
    assert resolve_config("quick", later_settings(earlier, whole)).recognizer.steps == 3
