"""Small versions of the benchmarks that run rarely or on other machines."""

import argparse
import dataclasses
import importlib
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from simgan_captcha.data.pictures import open_picture
from simgan_captcha.errors import ImageError
from simgan_captcha.evaluation.labels import read_labels_csv
from simgan_captcha.inference.reader import ImageReader
from simgan_captcha.inference.readings import Reading, save_readings
from simgan_captcha.pipeline.run_folder import READINGS
from simgan_captcha.scheme import Scheme
from simgan_captcha.simulator.glyphs import font_path
from simgan_captcha.simulator.wide.catalogue import FontEntry
from simgan_captcha.types import GreyImages
from tests.drawing import encode_jpeg
from tests.small_run import draw_captchas, pipeline, small_config, write_challenges

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


def load(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # torch itself
@pytest.mark.usefixtures("benchmarks")
def test_the_gpu_benchmark_times_a_small_refiner_on_the_cpu(tmp_path: Path) -> None:
    write_challenges(tmp_path / "challenges", draw_captchas(60))
    run = tmp_path / "run"
    pipeline(run, tmp_path / "challenges", "recognizer.images=raw")
    settings = small_config("simgan.steps=4", "simgan.batch_size=4").simgan
    figures = load("gpu").time_refiner(run, settings, 1)
    assert figures["steps_per_second"] > 0
    assert figures["images_per_second"] == 4 * figures["steps_per_second"]
    assert figures["flops_per_step"] > 0
    assert load("gpu").matrix_product_rate(16, False) > 0
    assert load("gpu").time_reader(run, 4, compiled=False, steps=1) > 0
    if shutil.which("g++"):  # torch needs it to compile without a GPU
        assert load("gpu").time_reader(run, 4, compiled=True, steps=1) > 0


def test_no_gpu_no_result(tmp_path: Path) -> None:
    script = BENCHMARKS / "gpu.py"
    done = subprocess.run(
        [sys.executable, script, tmp_path, "--challenges", tmp_path],
        capture_output=True,
        text=True,
        env={"CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 1
    assert done.stderr.startswith("expected a GPU, found none")


@pytest.mark.usefixtures("benchmarks")
def test_ratios_that_fell_by_a_fifth_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = load("bench")
    [benchmark] = [one for one in bench.BENCHMARKS if one.script == "training_rate"]
    path = tmp_path / "training_rate.json"
    path.write_text(json.dumps({"median": {"of_roofline": 0.5, "kept_up": 1.0}}))
    before = bench.ratios(benchmark, tmp_path)
    path.write_text(json.dumps({"median": {"of_roofline": 0.41, "kept_up": 0.79}}))
    after = bench.ratios(benchmark, tmp_path)
    assert bench.compare(before, after) == ["training with the simulator by without: 0.79 (was 1)"]
    assert "training by the convolution roofline: 0.41 (was 0.5)" in capsys.readouterr().out
    assert bench.compare({}, after) == []


@pytest.mark.usefixtures("benchmarks")
def test_committed_results_hold_the_ratios_that_are_compared() -> None:
    """Otherwise bench.py would never report a lower ratio."""
    bench = load("bench")
    for benchmark in bench.BENCHMARKS:
        assert bench.ratios(benchmark, bench.RESULTS).keys() == benchmark.ratios.keys()


def test_families_are_drawn_learned_and_judged(tmp_path: Path) -> None:
    """The puzzle needs no other generator. A family without its generator is left out."""
    settings = [
        "pretrained=false",
        "calibrate=false",
        "recognizer.images=raw",
        "recognizer.channels=[4, 4, 4, 4, 8]",
        "recognizer.steps=3",
        "adaptation.steps=0",
        'simulator.fonts=["roboto-black"]',
        "simulator.size=[24, 25]",
        "workers=0",
    ]
    done = subprocess.run(
        [
            *(sys.executable, BENCHMARKS / "families.py", tmp_path / "work", "--images", "60"),
            *("--families", "captcha (PyPI), 4 digits", "the puzzle, another user"),
            *("--python", tmp_path / "no-such-python", "--out", tmp_path, "--name", "others"),
            *[part for setting in settings for part in ("--set", setting)],
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "left out: captcha (PyPI), 4 digits" in done.stdout
    [row] = json.loads((tmp_path / "others.json").read_text())["rows"]
    assert row["images"] == 60
    assert row["scheme"]["background"] == "shared"
    assert 0 <= row["estimate"]["low"] <= row["estimate"]["high"] <= 1
    assert row["training_tflop"] > 0
    assert "the puzzle, another user" in (tmp_path / "others.md").read_text()


@pytest.mark.usefixtures("benchmarks")
def test_characters_drawn_alike_count_as_one_beside(tmp_path: Path) -> None:
    read, true = ("a0o", "ooo", "abc", "a0"), ("aoo", "000", "abc", "a0o")
    readings = [Reading(f"{n}.png", text, 0.9, (0.9,) * len(text)) for n, text in enumerate(read)]
    save_readings(tmp_path / READINGS, readings)
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(["name,label", *(f"{n}.png,{t}" for n, t in enumerate(true))]))
    families = load("families")
    assert families.alike_accuracy(tmp_path, labels, "") == 1 / 4
    assert families.alike_accuracy(tmp_path, labels, "o0") == 3 / 4


@pytest.mark.usefixtures("benchmarks")
def test_texts_are_counted_by_font_and_those_outlined_apart(tmp_path: Path) -> None:
    scheme = Scheme(alphabet="ab", length=2, width=16, height=8)
    (tmp_path / "images").mkdir()
    # The brightness encodes the first letter. The reader below reads it, and 'a' as the second.
    rows = [("aa", "Sans", 0), ("ba", "Sans", 0), ("ab", "Serif", 0), ("ba", "Serif", 1)]
    lines = ["name,label,font,outlined"]
    for number, (text, font, outlined) in enumerate(rows):
        name = f"{number}.png"
        Image.new("L", (16, 8), 200 if text[0] == "b" else 50).save(tmp_path / "images" / name)
        lines.append(f"{name},{text},{font},{outlined}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))

    def recognize(images: GreyImages) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        ids = np.zeros((len(images), 2), np.int64)
        ids[:, 0] = images.mean((1, 2)) > 100
        return ids, np.ones((len(images), 2), np.float32)

    found = load("gregwar_parts").read(ImageReader(scheme, recognize), tmp_path)
    assert found["right"] == 3 / 4
    assert found["interval"][0] < 3 / 4 < found["interval"][1]
    assert (found["outlined"], found["of_outlined"]) == (1, 1)
    assert found["of_fonts"] == {"Sans": 1, "Serif": 0}


@pytest.mark.usefixtures("benchmarks")
@pytest.mark.parametrize(("shortest", "longest"), [(1, 1), (2, 2), (1, 3), (3, 3)])
def test_decoding_keeps_to_alphabet_and_length_as_all_paths_tried(
    shortest: int, longest: int
) -> None:
    readers = load("stock_readers")
    labels, blank, steps = ("A", "b", "7", "_"), 3, 5
    random = np.random.default_rng(longest)
    for _ in range(20):
        probabilities = random.dirichlet(np.ones(len(labels)), steps)
        best, of_best = "", 0.0
        for path in itertools.product((0, 1, blank), repeat=steps):  # 7 is not in the alphabet
            starts = [n for n, _ in itertools.groupby(path)]
            text = "".join(labels[n] for n in starts if n != blank)
            probability = float(np.prod(probabilities[range(steps), path]))
            if shortest <= len(text) <= longest and probability > of_best:
                best, of_best = text, probability
        job = readers.Job([], "ab", shortest, longest, 0.0)
        found = readers.constrained_text(readers.Frames(probabilities, labels, blank), job)
        assert found == best
    few = readers.Frames(probabilities[:1], labels, blank)
    assert readers.constrained_text(few, readers.Job([], "ab", 2, 2, 0.0)) == ""


STAND_IN = """#!{python}
import json, sys
_, _, reader, known, job, result = sys.argv
job = json.load(open(job))
done = {{"texts": ["Ab12" if reader == "ddddocr" else "ab1"] * len(job["images"])}}
cost = ("cpu_seconds", "startup_seconds", "startup_cpu_seconds", "model_bytes")
json.dump({{**done, **dict.fromkeys(cost, 1), "versions": {{}}}}, open(result, "w"))
print(reader, known, len(job["images"]), file=open("{told}", "a"))
"""
"""A stand-in for an environment with stock readers."""


def test_readers_that_learn_nothing_are_judged_on_the_same_images(tmp_path: Path) -> None:
    family = tmp_path / "families" / "swust_2020"
    (family / "images").mkdir(parents=True)
    lines = ["name,label"]
    for number in range(8):
        Image.new("L", (90, 30)).save(family / "images" / f"{number}.png")
        lines.append(f"{number}.png,{'AB12' if number else 'AB17'}")
    (family / "labels.csv").write_text("\n".join(lines))
    stand_in, told = tmp_path / "python", tmp_path / "told"
    stand_in.write_text(STAND_IN.format(python=sys.executable, told=told))
    stand_in.chmod(0o755)
    command: list[str | Path] = [
        *(sys.executable, BENCHMARKS / "zero_shot.py", tmp_path / "work", "--rivals", stand_in),
        *("--families", tmp_path / "families", "--puzzle", tmp_path / "none", "--images", "6"),
        *("--sets", "swust_2020", "henan4", "pypi_digits4", "hackmit2017"),
        *("--python", tmp_path / "none"),
        *("--readers", "ddddocr", "rapidocr", "--out", tmp_path),
    ]
    for _ in range(2):  # the second run reads nothing again
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert told.read_text().splitlines() == [
        *("ddddocr nothing 6", "ddddocr alphabet 6", "ddddocr decoded 6"),
        *("rapidocr nothing 6", "rapidocr decoded 6"),
    ]
    for name in ("henan4", "pypi_digits4", "hackmit2017"):
        assert f"left out: {name}: " in done.stdout
    rows = json.loads((tmp_path / "zero_shot.json").read_text())["rows"]
    assert {(row["reader"], row["right"] >= 5, row["wrong_length"]) for row in rows} == {
        ("ddddocr", True, 0),
        ("rapidocr", False, 6),
    }
    assert "swust_2020" in (tmp_path / "zero_shot.md").read_text()
    assert "ddddocr" in (tmp_path / "zero_shot_cost.md").read_text()


@pytest.mark.usefixtures("benchmarks")
def test_our_generalist_does_the_same_job(tmp_path: Path) -> None:
    draw_digits(tmp_path / "set", 3)
    zero_shot = load("zero_shot")
    digits = zero_shot.CaptchaSet("set", "generators", tmp_path / "set", "0123456789", "4-6")
    images = ["2.png", "0.png"]
    for known in zero_shot.our_generalist.KNOWN:
        done = zero_shot.read(digits, images, "ours", known, argparse.Namespace(work=tmp_path))
        truth = read_labels_csv(tmp_path / "set" / "labels.csv")
        assert done["texts"] == [truth[name] for name in images]
        assert done["cpu_seconds"] > 0
        assert 1e6 < done["model_bytes"] < 1e7


@pytest.fixture
def real_captchas(tmp_path: Path) -> Path:
    """A batch of captchas in the puzzle's size. Their texts do not matter."""
    rng = np.random.default_rng(1)
    grey = np.tile(np.linspace(60, 140, 100), (50, 1))
    captchas = []
    for _ in range(80):
        image = grey + rng.normal(0, 3, grey.shape)
        for slot in range(4):
            image[rng.integers(5, 20) :, 25 * slot + rng.integers(2, 8)][:20] = 250
            image[20 + rng.integers(10), 25 * slot + 4 : 25 * slot + 18] = 250
        captchas.append((encode_jpeg(image.clip(0, 255).astype(np.uint8), 50), ""))
    write_challenges(tmp_path / "challenges", captchas, batches=1)
    return tmp_path / "challenges"


@pytest.mark.usefixtures("benchmarks")
def test_the_table_of_refiners_is_made_arm_by_arm(
    tmp_path: Path, real_captchas: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = load("simgan_table")
    every = "flow, hinge, contrastive"

    def run(*arms: str, seed: int = 1) -> dict[str, dict[str, Any]]:
        where = [str(tmp_path / "work"), "--challenges", str(real_captchas), "--tiny"]
        size = ["--test", "40", "--measured", "40", "--threads", "1", "--out", str(tmp_path)]
        table.main([*where, *size, "--seeds", str(seed), "--arms", *arms])
        rows = json.loads((tmp_path / "simgan_table.json").read_text())["rows"]
        return {row["arm"]: row for row in rows}

    first = run("raw", "paper")
    assert first.keys() == {"raw", "paper"}
    again = run("raw", "paper", every)
    assert {arm: again[arm] for arm in first} == first  # they are not made again
    row = again[every]
    assert row["refiner"]["adversarial"] == "hinge"
    assert 0 <= row["read"]["captcha_accuracy"] <= row["read"]["captcha_interval"][1] <= 1
    assert row["read"]["images"] == row["adapted"]["images"] == 40
    for key in ("texts_kept", "told_from_real", "discriminator_accuracy"):
        assert 0 <= row[key] <= 1
        assert key not in again["raw"]
    assert row["tflop"] > row["refiner_tflop"] > 0
    assert "| one font | flow, hinge, contrastive | 1 |" in capsys.readouterr().out
    for arm in table.ARMS:  # all arms can be built
        table.SimGANSettings.model_validate({**table._BASE, **table.ARMS[arm]})
    with pytest.raises(SystemExit, match=r"expected .* to be of"):
        table.Rows(tmp_path / "simgan_table.json", ("arm",), {"test": 5})
    with pytest.raises(SystemExit, match="--out with --tiny"):
        table.main([str(tmp_path), "--challenges", str(real_captchas), "--tiny"])


@pytest.mark.usefixtures("benchmarks")
def test_the_story_of_2017_is_told_row_by_row(tmp_path: Path, real_captchas: Path) -> None:
    story = load("original_story")

    def run(*steps: str) -> list[dict[str, Any]]:
        where = [str(tmp_path / "work"), "--challenges", str(real_captchas), "--tiny"]
        size = ["--test", "40", "--threads", "1", "--out", str(tmp_path), "--seeds", "1"]
        story.main([*where, *size, "--steps", *steps])
        rows: list[dict[str, Any]] = json.loads(
            (tmp_path / "original_story_tiny.json").read_text()
        )["rows"]
        return rows

    first = run("2017")
    assert [(row["step"], row["learned_from"]) for row in first] == [
        ("2017", "raw"),
        ("2017", "refined"),
    ]
    rows = run("2017", "today's reader")
    assert rows[:2] == first  # they are not made again
    assert len(rows) == 4
    for row in rows:
        assert row["images"] == 40
        assert row["steps"] == 2
        assert row["tflop"] > 0
        assert ("change" in row) == (row["learned_from"] == "refined")
    assert "| 2017 | refined | 1 |" in (tmp_path / "original_story_tiny.md").read_text()


def draw_digits(folder: Path, count: int) -> None:
    """Draw a family of four printed digits, plain enough for the generalist."""
    (folder / "images").mkdir(parents=True)
    rng, lines = np.random.default_rng(1), ["name,label"]
    font = ImageFont.truetype(font_path("roboto-black"), 30)
    for number in range(count):
        text = "".join(rng.choice(list("0123456789"), 4))
        image = Image.new("RGB", (120, 40), "white")
        ImageDraw.Draw(image).text((20, 2), text, "black", font=font)
        image.save(folder / "images" / f"{number}.png")
        lines.append(f"{number}.png,{text}")
    (folder / "labels.csv").write_text("\n".join(lines))


@pytest.mark.usefixtures("benchmarks")
def test_the_generalist_is_measured_by_kind_of_difficulty(tmp_path: Path) -> None:
    """The fonts are part of every installation."""
    fields = [field.name for field in dataclasses.fields(FontEntry)]
    rows = [
        f"{font_path(name)}\t{name}\t{name}\t\tOFL\theld-out\tFalse"
        for name in ("roboto-black", "dejavu-sans-mono")
    ]
    (tmp_path / "fonts.tsv").write_text("\n".join(["\t".join(fields), *rows, ""]))
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 512, "tflop": 37.0, "texts": 0.25}))
    size = ["--families", "5", "--images", "8", "--steps", "1"]
    where = ["--catalogue", str(tmp_path / "fonts.tsv"), "--out", str(tmp_path)]
    load("generalist").main([*size, *where, "--log", str(tmp_path / "log.jsonl")])
    report = json.loads((tmp_path / "generalist.json").read_text())
    every, *kinds = report["rows"]
    assert (every["kind"], every["images"]) == ("all", 40)
    assert 0 < every["free"][0] <= every["constrained"][0] < 1
    assert every["free"][1] < every["free"][0] < every["free"][2]
    assert all(30 <= kind["images"] <= 40 for kind in kinds)
    step = report["training_step"]
    assert step["ratio"] == step["float32"] / step["bfloat16"] > 0
    table = (tmp_path / "generalist.md").read_text()
    assert "| training | 512 steps, 37 TFLOP |" in table
    assert f"| in float32 |  | {step['ratio']:.2f} times the CPU time of bfloat16 " in table


@pytest.mark.usefixtures("benchmarks")
def test_specialization_is_measured_family_by_family_once(tmp_path: Path) -> None:
    draw_digits(tmp_path / "henan4", 12)
    labels = tmp_path / "henan4" / "labels.csv"
    labels.write_text(labels.read_text().replace("0.png,", "0.png,wrong"))  # and 10.png
    arguments = ["--families", str(tmp_path), "--only", "henan4", "--steps", "2"]
    for _ in range(2):
        load("specialization").main([*arguments, "--out", str(tmp_path)])
    [row] = json.loads((tmp_path / "specialization.json").read_text())["rows"]
    assert (row["images"], row["steps"]) == (12, 2)
    assert row["at_once"][0] == row["specialized"][0] == pytest.approx(10 / 12)
    assert 0.5 < row["confidence"] <= 1
    assert row["cpu_seconds"] > 0
    assert "| henan4 | 12 | 83.3% " in (tmp_path / "specialization.md").read_text()


@pytest.mark.usefixtures("benchmarks")
def test_what_init_proposes_is_compared_with_a_person(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_digits(tmp_path / "generated" / "pypi_digits4", 60)
    look = load("first_look")
    where = [str(tmp_path), "--families", str(tmp_path / "none"), "--out", str(tmp_path)]
    look.main(where)
    assert "left out: lzu5: no images" in capsys.readouterr().out
    [row] = json.loads((tmp_path / "first_look.json").read_text())["rows"]
    assert (row["family"], row["length"]) == ("pypi_digits4", "4")
    assert (row["missing"], row["too_many"]) == ("", "")
    assert row["person"]["clutter"] == ["lines", "dots"]
    assert "| pypi_digits4 | **4** | none | none |" in (tmp_path / "first_look.md").read_text()
    assert [look.person(name).background for name in ("spas4", "puzzle4")] == ["varying", "shared"]


@pytest.mark.usefixtures("benchmarks")
def test_mean_and_interval_over_seeds() -> None:
    record = load("record")
    assert record.over_seeds([]) == "–"
    assert record.over_seeds([0.5]) == "50.0%"
    assert record.over_seeds([10.0, 12.0, 14.0], "{:+.1f}") == "+12.0 ± 5.0"


@pytest.mark.usefixtures("benchmarks")
def test_a_refiners_images_are_measured() -> None:
    """The measures separate images of two kinds, but not images of one kind."""
    measures = load("refiner_measures")
    generator = torch.Generator().manual_seed(1)
    dark, other, bright = (
        torch.rand(80, 1, 16, 16, generator=generator) - shift for shift in (1.0, 1.0, 0.0)
    )
    assert measures.told_apart(dark, bright, 1, steps=60) > 0.9
    assert 0.2 < measures.told_apart(dark, other, 1, steps=60) < 0.8
    one, same, apart = (images.flatten(1) for images in (dark, other, bright))
    assert abs(measures.kernel_distance(one, same)) < 0.05 * measures.kernel_distance(one, apart)


@pytest.mark.usefixtures("benchmarks")
def test_families_are_summed_up_by_means_and_by_how_often_estimates_hold() -> None:
    module = load("real_families")
    assert module.doubles("122")
    assert not module.doubles("1212")
    # Half of the characters are 'a', but three quarters are read as 'a'.
    assert module.share_error({"1": "aabb"}, {"1": "aaab"}) == pytest.approx(0.5)
    rows = [
        {
            "family": name,
            "specialized": 0.8,
            "right": [right, 0, 1],
            "estimate": [0.9, 0.85, 0.95],
            "seconds": 100,
        }
        for name, right in (("henan4", 0.9), ("lzu5", 0.7), ("lzu5", 0.5))
    ]
    means = module.means(rows, {"henan4": 1.0, "lzu5": 0.9})
    assert means[3:6] == ("95.0%", "80.0%", "**75.0%**")  # the two runs on lzu5 count as one
    assert "1 of 3 inside" in means


@pytest.mark.usefixtures("benchmarks")
def test_few_images_come_with_their_labels_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load("few_images")
    (tmp_path / "henan4" / "images").mkdir(parents=True)
    for number in range(9):
        (tmp_path / "henan4" / "images" / f"{number}.png").write_bytes(b"")
    labels = "".join(f"{number}.png,{number}\n" for number in range(9))
    (tmp_path / "henan4" / "labels.csv").write_text("name,label\n" + labels)

    def learned(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
        folder = options.families / name
        images = {path.name for path in (folder / "images").iterdir()}
        assert read_labels_csv(folder / "labels.csv") == {n: n[0] for n in images}
        return {"images": images}

    monkeypatch.setattr(module, "learned", learned)
    options = argparse.Namespace(families=tmp_path)
    first, again, other = (module.of_few("henan4", 4, s, options)["images"] for s in (1, 1, 2))
    assert len(first) == 4
    assert first == again != other


@pytest.mark.usefixtures("benchmarks")
def test_a_fit_to_families_finds_the_constants_that_made_them() -> None:
    module = load("estimate_calibration")
    rows = []
    for family, taught in enumerate((0.4, 0.6, 0.75, 0.9, 0.97)):
        x = -0.5 + 1.25 * module.logit(taught)
        rows.append({"family": family, "taught": taught, "right": float(1 / (1 + np.exp(-x)))})
    fit = module.fitted(rows)
    assert (fit["shift"], fit["slope"]) == pytest.approx((-0.5, 1.25), abs=0.02)
    assert max(fit["below"], fit["above"]) < 0.05
    assert fit["left_out"] == pytest.approx([row["right"] for row in rows], abs=0.01)


@pytest.mark.usefixtures("benchmarks")
def test_costs_of_two_commits_are_compared_round_by_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = load("run_cost")
    seconds = iter([90.0, 30.0, 200.0, 20.0, 80.0, 20.0])

    def cost_of(source: Path, number: int, options: argparse.Namespace) -> dict[str, Any]:
        wall = next(seconds)
        costs = {"seconds": wall, "cpu_seconds": 2 * wall, "stages": {"read": wall}}
        return {**costs, "training_flops": 10**12, "right": 0.5}

    monkeypatch.setattr(module, "cost_of", cost_of)
    monkeypatch.setattr(module, "checked_out", lambda commit, work: work / commit / "src")
    monkeypatch.setattr(module, "name_of", lambda commit: commit)
    arguments = ["old", "new", "--work", tmp_path, "--challenges", tmp_path, "--out", tmp_path]
    module.main([str(argument) for argument in arguments])
    assert "| median ratio |  | **4.0** | **4.0** |" in capsys.readouterr().out
    module.main([str(argument) for argument in arguments])  # repeats nothing


@pytest.mark.usefixtures("benchmarks")
def test_errors_that_labels_remove_are_counted_as_a_share() -> None:
    module = load("teach_curve")
    row = {"without": [0.9, 0, 1], "in_use": [0.96, 0, 1]}
    assert module.errors_gone(row) == pytest.approx(0.6)
    assert module.errors_gone({**row, "in_use": [0.8, 0, 1]}) == pytest.approx(-1)
    assert module.errors_gone({**row, "without": [1.0, 0, 1]}) == 0


@pytest.mark.usefixtures("benchmarks")
def test_every_format_of_the_table_is_a_picture_and_the_last_three_are_none() -> None:
    module = load("picture_formats")
    files = module.in_formats(Image.new("RGB", (48, 24), (10, 200, 90)))
    for name, data in list(files.items())[:-3]:
        assert open_picture(data).rgb.shape == (24, 48, 3), name
    for data in list(files.values())[-3:]:
        with pytest.raises(ImageError):
            open_picture(data)
