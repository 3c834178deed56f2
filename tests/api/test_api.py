"""The Python interface of the package."""

import io
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import simgan_captcha as sc
from simgan_captcha.errors import ConfigError, RunError, UsageError
from simgan_captcha.generalist.reader import _session
from simgan_captcha.pipeline.progress import Event
from simgan_captcha.pipeline.run_folder import read_run
from tests.commands import command
from tests.small_run import ASSIGNMENTS, SCHEME, draw_captchas

CAPTCHAS = draw_captchas()
SMALL = (*(a for a in ASSIGNMENTS if not a.startswith("scheme.")), "recognizer.images=raw")


def learn(images: Any, **options: Any) -> sc.Run:
    return sc.learn(images, scheme=SCHEME, settings=SMALL, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Captchas as files."""
    folder = tmp_path_factory.mktemp("captchas")
    for number, (image, _) in enumerate(CAPTCHAS):
        (folder / f"{number}.jpg").write_bytes(image)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> sc.Run:
    """A finished run in a temporary folder."""
    return learn(folder)


# The package.


def test_public_names_are_there() -> None:
    assert set(dir(sc)) == set(sc.__all__)
    for name in sc.__all__:
        assert getattr(sc, name) is not None
    with pytest.raises(AttributeError):
        _ = sc.nothing


def in_a_new_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_or_a_configuration_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'cv2', 'pyarrow', 'httpx', 'rich'} & sys.modules.keys()"
    for module in ("simgan_captcha", "simgan_captcha.config.settings"):
        assert in_a_new_process(f"import sys, {module}; print({heavy})") == "set()\n"


def test_reading_and_inspecting_need_no_torch(folder: Path) -> None:
    code = (
        "import sys, simgan_captcha as sc\n"
        f"sc.inspect({str(folder)!r}); sc.read, sc.simgan.SimGANSettings\n"
        "print('torch' in sys.modules)\n"
        "sc.simgan.train_refiner\n"
        "print('torch' in sys.modules)\n"
    )
    assert in_a_new_process(code) == "False\nTrue\n"


# learn


def test_a_run_reads_estimates_exports_and_reports(
    run: sc.Run, folder: Path, tmp_path: Path
) -> None:
    assert 0 <= run.estimate.low <= run.estimate.accuracy <= run.estimate.high <= 1
    assert run.scheme == SCHEME
    readings = run.readings()
    assert {reading.name for reading in readings} == {path.name for path in folder.iterdir()}
    one = run.read(folder / "3.jpg")
    assert len(one.text) == SCHEME.max_length
    several = run.read([folder / "3.jpg", CAPTCHAS[4][0], b"no image"])
    assert isinstance(several[0], sc.Reading)
    assert several[0].text == one.text
    assert isinstance(several[2], sc.Unreadable)
    parity = run.export(tmp_path / "reader.onnx")
    assert parity.images == len(CAPTCHAS)
    assert sc.Reader(tmp_path / "reader.onnx").read(folder / "3.jpg").text == one.text
    assert run.report().is_file()


def test_a_run_is_continued_by_python_and_by_the_command_line(folder: Path, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(event: Event) -> None:
        if event.stage == "read" and event.step == 5:
            raise Stopped

    with pytest.raises(Stopped):
        learn(folder, run=tmp_path / "run", progress=stop)
    with pytest.raises(RunError):
        _ = sc.Run(tmp_path / "run").estimate
    done = command("run", tmp_path / "run", "--quiet")
    assert done.code == 0, done.err
    assert read_run(tmp_path / "run")["given_scheme"] == SCHEME.model_dump(mode="json")
    events: list[Event] = []
    again = learn(folder, run=tmp_path / "run", progress=events.append)
    assert again.readings() == sc.Run(tmp_path / "run").readings()
    assert {event.stage for event in events if event.kind == "step"} == {"store"}


def as_arrays() -> list[Any]:
    return [np.asarray(Image.open(io.BytesIO(image)).convert("L")) for image, _ in CAPTCHAS]


def test_images_may_be_a_list_or_a_store(run: sc.Run, folder: Path, tmp_path: Path) -> None:
    texts = [reading.text for reading in run.readings()]
    stored = learn(run.folder / "store", run=tmp_path / "stored")
    assert stored.readings() == run.readings()
    pictures: Sequence[Any] = [folder / f"{n}.jpg" for n in range(len(CAPTCHAS))]
    listed = learn(pictures, run=tmp_path / "listed")
    assert [reading.text for reading in listed.readings()] == texts
    assert {reading.name for reading in listed.readings()} == set(map(str, range(len(CAPTCHAS))))
    # The same images may be given again, others not.
    learn(pictures, run=tmp_path / "listed")
    with pytest.raises(UsageError, match="is a run on the images of"):
        learn(pictures[1:], run=tmp_path / "listed")
    seen = sc.inspect(as_arrays()).scheme
    assert (seen.length, seen.width, seen.height) == (2, 48, 24)
    assert set("abc") <= set(seen.alphabet)
    with pytest.raises(UsageError, match="got a int"):
        sc.inspect([3])  # type: ignore[list-item]


def test_a_temporary_run_is_deleted_and_leaves_its_process_unchanged(folder: Path) -> None:
    def of_process() -> Any:
        levels = [logging.getLogger(name).level for name in ("lightning_fabric", "torch.onnx")]
        return torch.get_num_threads(), dict(os.environ), levels

    before = of_process()
    made = learn(folder, progress=lambda event: None)
    made.export(folder.parent / "unchanged.onnx")
    assert of_process() == before
    place = made.folder
    assert place.is_dir()
    del made
    assert not place.exists()


def test_settings_may_be_a_mapping(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean recognizer\.steps"):
        sc.learn(folder, run=tmp_path / "run", scheme=SCHEME, settings={"recognizer.step": 5})
    assert not (tmp_path / "run").exists()


# inspect


def test_inspecting_proposes_a_scheme(folder: Path) -> None:
    seen = sc.inspect(folder, alphabet="abc1", length=(2, 3))
    assert (seen.scheme.alphabet, seen.scheme.min_length, seen.scheme.max_length) == ("abc1", 2, 3)
    assert (seen.scheme.width, seen.scheme.height) == (SCHEME.width, SCHEME.height)
    assert seen.sheet.startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="expected a scheme to learn from the address"):
        sc.inspect("http://127.0.0.1:1/")


def test_a_scheme_survives_toml(tmp_path: Path) -> None:
    scheme = sc.Scheme(alphabet='ab"\\é', equivalents=("aA",), length=(4, 5), width=80, height=30)
    path = tmp_path / "my.toml"
    path.write_text(scheme.to_toml(), encoding="utf-8")
    assert sc.Scheme.from_toml(path) == scheme


# read


def test_without_the_generalist_reading_says_so(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simgan_captcha.generalist.shipped.files", lambda package: tmp_path)
    _session.cache_clear()
    with pytest.raises(RunError, match="this installation has none; learn a reader"):
        sc.read(folder / "3.jpg")
    command("read", folder / "3.jpg").error(1, "pretrained generalist", "has none")
    command("read", folder, "--length", "2").error(1, "pretrained generalist")


def test_a_run_reads_within_its_own_alphabet(run: sc.Run, folder: Path) -> None:
    command("read", run.folder, folder / "3.jpg", "--alphabet", "äb").error(
        2, "which the reader knows", "got 'ä'"
    )
    within = command("read", run.folder, folder / "3.jpg", "--alphabet", "ab", "--json")
    (reading,) = json.loads(within.out)["readings"]
    assert set(reading["text"]) <= set("ab")


# Documents.


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md"])
def test_the_python_of_the_documents_runs(
    page: str, run: sc.Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a run that is finished already, and its images."""
    text = (Path(__file__).parents[2] / page).read_text("utf-8")
    blocks = [block.split("```")[0] for block in text.split("```python\n")[1:]]
    for name, number in (("captcha.jpg", 3), ("a.jpg", 4), ("b.jpg", 5)):
        shutil.copy(folder / f"{number}.jpg", tmp_path / name)
    run.export(tmp_path / "reader.onnx")
    monkeypatch.chdir(tmp_path)
    asked: dict[str, Any] = {}

    def learned(images: str, **options: Any) -> sc.Run:
        asked.update(options, images=images)
        return run

    monkeypatch.setattr(sc, "learn", learned, raising=False)
    for block in blocks:
        exec(compile(block, page, "exec"), {})
    assert asked == {"images": "captchas/", "alphabet": "0123456789", "length": 4}
