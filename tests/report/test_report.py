import json
import math
import re
import shutil
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path
from string import ascii_lowercase, digits
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simgan_captcha.atomic import file_hash
from simgan_captcha.data.background import estimate_background
from simgan_captcha.data.batch import Captcha
from simgan_captcha.data.images import decode_grey, encode_png
from simgan_captcha.data.pictures import open_picture
from simgan_captcha.data.store import CaptchaStore
from simgan_captcha.errors import RunError
from simgan_captcha.evaluation.judge import judge
from simgan_captcha.inference.readings import Reading
from simgan_captcha.pipeline.estimate import Estimate, diagnose
from simgan_captcha.pipeline.run_folder import DIAGNOSIS, READINGS
from simgan_captcha.report import charts
from simgan_captcha.report.report import write_report
from simgan_captcha.types import GreyImages
from tests.drawing import encode_jpeg

ALPHABET = ascii_lowercase + digits
IMAGES = 120


class _Page(HTMLParser):
    """The text, the pictures and the links of a page, as a browser would see them."""

    void = frozenset({"img", "meta", "br"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = ""
        self.headings: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self._open: list[str] = []
        self.source = path.read_text("utf-8")
        self.feed(self.source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.void:
            self._open.append(tag)
        if tag == "h2":
            self.headings.append("")
        if tag == "img":
            self.images.append(dict(attrs))
        self.links += [v or "" for k, v in attrs if k in {"href", "src", "srcset", "action"}]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if "h2" in self._open:
            self.headings[-1] += data

    def alt(self, start: str) -> dict[str, str | None]:
        return next(image for image in self.images if (image["alt"] or "").startswith(start))


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _write_metrics(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _manifest(run: Path, stage: str, **figures: object) -> None:
    manifest = {
        "stage": stage,
        "seed": 1,
        "seconds": 30.0,
        "cpu_seconds": 45.0,
        "convolution_gflops": 120.0,
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "machine": "two test cores",
        "precision": "32-true",
        "result": {},
    }
    _write_json(run / stage / "manifest.json", manifest | figures)


def _captchas(generator: np.random.Generator) -> dict[str, bytes]:
    shared = np.linspace(40, 160, 100).astype(np.uint8) * np.ones((50, 1), np.uint8)
    captchas = {}
    for number in range(IMAGES):
        image = shared.copy()
        for slot in range(4):
            row, column = generator.integers(2, 25), 25 * slot + generator.integers(0, 12)
            image[row : row + 20, column : column + 8] = 250
        captchas[f"{number:032x}"] = encode_jpeg(image, 50)
    return captchas


def write_readings(
    run: Path, names: list[str], texts: list[str], confidences: list[float | None]
) -> None:
    path = run / "readings" / "readings.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "name": pa.array(names, pa.string()),
        "text": pa.array(texts, pa.string()),
        "confidence": pa.array(confidences, pa.float64()),
        "character_confidence": pa.array(
            [[c, *[0.99] * (len(t) - 1)] for c, t in zip(confidences, texts, strict=True)],
            pa.list_(pa.float64()),
        ),
    }
    pq.write_table(pa.table(columns), path)


def write_diagnosis(run: Path, texts: list[str]) -> dict[str, Any]:
    """Write the diagnosis of a run that uses the adapted reader, which sometimes reads i as l."""
    known = [("ilj1", "llj1")] * 40 + [("ceo0", "ceo0")] * 200 + [("aaee", "aaeo")] * 20
    diagnosis = diagnose(
        [Reading("", text, 0.9, (0.97,) * 4) for text in texts],
        [Reading("", read, 0.9, (0.97,) * 4) for _, read in known],
        [truth for truth, _ in known],
        {
            "read": Estimate(0.823, 0.801, 0.871, 0.86),
            "adapt": Estimate(0.874, 0.792, 0.953, 0.941),
        },
        "adapt",
        ALPHABET,
    )
    _write_json(run / DIAGNOSIS, diagnosis)
    return diagnosis


def fabricate_run(run: Path, captchas: dict[str, bytes], sheet: GreyImages) -> dict[str, str]:
    """Write a run folder as docs/how-it-works.md describes it, and return the true texts."""
    generator = np.random.default_rng(7)
    scheme = {"alphabet": ALPHABET, "length": 4, "width": 100, "height": 50}
    recorded = {"preset": "quick", "scheme": scheme, "seed": 1}
    _write_json(run / "run.json", {**recorded, "config": {"recognizer": {"images": "refined"}}})
    CaptchaStore(run / "store").add(
        "challenge-0", [Captcha(name, image) for name, image in captchas.items()]
    )
    _manifest(run, "store", images=len(captchas), seconds=4.2)
    greys = np.stack([decode_grey(image) for image in captchas.values()])
    background = estimate_background(greys)
    background.save(run / "background" / "background.npz")
    (run / "background" / "background.png").write_bytes(encode_png(background.grey))
    _manifest(run, "background", images=len(captchas), seconds=1.5)
    for stage, name in (
        ("simulate", "sheet.png"),
        *(("refine", f"sheet-{step:06d}.png") for step in (500, 1000, 1500, 2000)),
    ):
        (run / stage).mkdir(exist_ok=True)
        (run / stage / name).write_bytes(encode_png(sheet))
    _manifest(run, "simulate", images=64, seconds=0.4)
    steps = range(10, 2001, 10)

    def noise() -> float:
        return float(generator.normal(1, 0.08))

    _write_metrics(
        run / "refine" / "metrics.jsonl",
        [
            {
                "step": step,
                "refiner_adversarial": 0.69 * noise() + 0.3 * math.exp(-step / 300),
                "regularization": 0.04 * noise() * (1 - math.exp(-step / 200)),
                "discriminator_loss": 0.66 * noise(),
                "discriminator_accuracy": min(1.0, 0.58 * noise()),
                "images_per_second": 210.0,
            }
            for step in steps
        ],
    )
    _manifest(
        run,
        "refine",
        images=64_000,
        seconds=212.0,
        training_flops=4.1e12,
        result={"warnings": ["the refiner changes 0.4 grey levels a pixel: nearly the identity"]},
    )
    _write_metrics(
        run / "read" / "metrics.jsonl",
        [
            {
                "step": step,
                "loss": 3.5 * math.exp(-step / 250) * noise() + 0.05,
                "accuracy": max(0.0, min(1.0, 1 - math.exp(-step / 400) * noise())),
                "learning_rate": 1e-3 * (1 + math.cos(math.pi * step / 2000)) / 2,
            }
            for step in steps
        ],
    )
    _manifest(run, "read", images=153_600, seconds=312.5, training_flops=1.1e13)
    _write_metrics(
        run / "adapt" / "metrics.jsonl",
        [
            {
                "step": step,
                "loss": 0.3 * noise(),
                "real_loss": 0.2 * noise(),
                "synthetic_loss": 0.1 * noise(),
                "pseudo_label_rate": min(1.0, (1 - 0.3 * math.exp(-step / 300)) * 0.95),
            }
            for step in steps
        ],
    )
    _manifest(run, "adapt", images=100_000, seconds=180.0, training_flops=3.3e12)

    names = list(captchas)
    # No g, and twice as many l.
    texts = ["".join(generator.choice(list(ALPHABET), 4)).replace("g", "l") for _ in names]
    truth = {}
    confidences = []
    for name, text in zip(names, texts, strict=True):
        wrong = generator.random() < 0.12
        other = "".join(generator.choice(list("ilj1ceo0"), 1)) + text[1:]
        truth[name] = other if wrong else text
        low = 0.2 if wrong else 0.6
        confidences.append(float(1 - generator.beta(0.4, 4) * (1 - low)))
    write_readings(run, names, texts, list(confidences))
    warnings = write_diagnosis(run, texts)["warnings"]
    _manifest(run, "readings", images=len(names), seconds=9.0, result={"warnings": warnings})
    judgement = judge(names, texts, truth, ALPHABET, confidences=confidences)
    _write_json(run / "judge" / "judgement.json", judgement.model_dump(mode="json"))
    _write_json(run / "submission" / "verdict.json", {"message": "Well done", "passcode": "c0ffee"})
    return truth


@pytest.fixture(scope="module")
def captchas() -> dict[str, bytes]:
    return _captchas(np.random.default_rng(3))


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory, captchas: dict[str, bytes]) -> Path:
    run = tmp_path_factory.mktemp("runs") / "first-run"
    run.mkdir()
    greys = [decode_grey(image) for image in list(captchas.values())[:16]]
    sheet = np.vstack([np.hstack(greys[row : row + 4]) for row in range(0, 16, 4)])
    fabricate_run(run, captchas, sheet)
    return run


@pytest.fixture(scope="module")
def page(whole_run: Path) -> _Page:
    path = write_report(whole_run)
    assert path == whole_run / "report.html"
    assert path.stat().st_size < 3_000_000
    return _Page(path)


def test_results_of_other_readings_or_settings_are_not_shown(
    whole_run: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(whole_run, tmp_path / "run"))
    judgement = run / "judge" / "judgement.json"
    figures = json.loads(judgement.read_text())
    _write_json(judgement, {**figures, "readings_sha256": file_hash(run / READINGS)})
    assert "Accuracy against labels" in _Page(write_report(run)).headings
    _write_json(judgement, {**figures, "readings_sha256": "of other readings"})
    recorded = json.loads((run / "run.json").read_text())
    assert "Refiner" in _Page(write_report(run)).headings
    _write_json(run / "run.json", {**recorded, "config": {"recognizer": {"images": "raw"}}})
    page = _Page(write_report(run))
    assert "Refiner" not in page.headings
    assert "Accuracy against labels" not in page.headings
    assert "judgement.json belongs to earlier readings" in page.text
    flow = page.text[page.text.index("Stages and cost") : page.text.index("Background and lines")]
    assert "SimGAN refiner" in flow
    assert "not run" in flow


def test_sections_are_in_order(page: _Page) -> None:
    assert page.headings == [
        "Warnings",
        "Accuracy estimate",
        "Stages and cost",
        "Background and lines",
        "Synthetic and real captchas",
        "Refiner",
        "Learning curves",
        "Readings",
        "Accuracy against labels",
        "Reproduce this run",
    ]


def test_the_page_makes_no_requests(page: _Page) -> None:
    assert page.links
    assert all(link.startswith("data:image/") for link in page.links)
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(page.tags)
    assert "@import" not in page.source
    assert "url(" not in page.source


def test_every_picture_is_valid_and_has_alternative_text(page: _Page) -> None:
    assert len(page.images) > 60
    for image in page.images:
        assert image["alt"]
        kind, _, data = (image["src"] or "").partition(";base64,")
        if kind == "data:image/svg+xml":
            drawing = b64decode(data, validate=True)
            assert ElementTree.fromstring(drawing).tag == "{http://www.w3.org/2000/svg}svg"
            # Every colour follows the theme; a forgotten placeholder would be near black.
            assert not re.search(rb"#(0[1-8])\1\1", drawing)
        else:
            open_picture(b64decode(data, validate=True))


def test_headline_shows_accuracy_and_verdict(page: _Page, whole_run: Path) -> None:
    judgement = json.loads((whole_run / "judge" / "judgement.json").read_text())
    low, high = judgement["captcha_interval"]
    assert f"{100 * judgement['captcha_accuracy']:.1f}\u00a0%" in page.text
    assert f"95 % interval {100 * low:.1f}\u00a0% to {100 * high:.1f}\u00a0%" in page.text
    assert "The puzzle server accepted the submission" in page.text
    assert "c0ffee" in page.text
    assert "has not been judged" not in page.text


def _own_section(page: _Page) -> str:
    start = page.text.index("Accuracy estimate")
    return page.text[start : page.text.index("Stages and cost")]


def test_accuracy_estimate(page: _Page, whole_run: Path) -> None:
    diagnosis = json.loads((whole_run / DIAGNOSIS).read_text())
    section = _own_section(page)
    rows = [line for line in section.splitlines() if "\u00a0% to " in line]
    assert len(rows) == 2
    assert re.match("Reader.*82.3.*80.1.* to 87.1.*86.0.*not used", rows[0])
    assert re.match("Adaptation.*87.4.*79.2.* to 95.3.*94.1.*in use", rows[1])
    accuracy = json.loads((whole_run / "judge" / "judgement.json").read_text())["captcha_accuracy"]
    way = "above" if accuracy > 0.874 else "below"
    assert f"{abs(100 * accuracy - 87.4):.1f} points {way} the estimate and inside" in section
    alarms = page.text[: page.text.index("Accuracy estimate")]
    assert "nearly the identity" in alarms
    assert diagnosis["warnings"]
    for sentence in diagnosis["warnings"]:
        assert sentence in section
        assert sentence not in alarms  # not repeated
    for pair in diagnosis["confusions"]:
        assert re.search(rf"{pair['truth']}{pair['read']}{100 * pair['share']:.1f}", section)


def test_chart_of_character_shares_has_alternative_text(page: _Page, whole_run: Path) -> None:
    shares = json.loads((whole_run / DIAGNOSIS).read_text())["shares"]
    words = page.alt("Share of each character among all characters read")["alt"] or ""
    assert "largest differences from the expected 2.8\u00a0%: " in words
    furthest = sorted(ALPHABET, key=lambda c: -abs(shares[c] - 1 / 36))[:3]
    assert words.endswith(", ".join(f"{c} {100 * shares[c]:.1f}\u00a0%" for c in furthest))


def test_an_accuracy_outside_the_interval_and_an_unjudged_run(
    whole_run: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(whole_run, tmp_path / "run"))
    diagnosis = json.loads((run / DIAGNOSIS).read_text())
    high = {"accuracy": 0.99, "low": 0.985, "high": 0.995, "known_accuracy": 0.99}
    spotless = {"estimates": {"read": high}, "kept": "read", "warnings": [], "confusions": []}
    _write_json(run / DIAGNOSIS, diagnosis | spotless)
    section = _own_section(_Page(write_report(run)))
    assert "points below the estimate and outside its interval" in section
    assert "None." in section
    assert "No confusion occurs more than twice on synthetic images." in section
    shutil.rmtree(run / "judge")
    page = _Page(write_report(run))
    assert "This run has not been judged against labels." in _own_section(page)
    headline = page.text[
        : page.text.index("This run has not been judged against labels. It used none.")
    ]
    assert "99.0\u00a0%" in headline
    assert "98.5\u00a0% to 99.5\u00a0%, estimated without labels" in headline


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kept", None),
        ("kept", "elsewhere"),
        ("estimates", {}),
        ("estimates", [1]),
        ("estimates", {"adapt": {"accuracy": "high"}}),
        ("confusions", None),
        ("confusions", [{"truth": "a"}]),
        ("confusions", [{"truth": "a", "read": "b", "share": "often"}]),
    ],
)
def test_a_diagnosis_of_another_shape_is_named(tmp_path: Path, key: str, value: object) -> None:
    _write_json(tmp_path / "run.json", {"scheme": {"alphabet": ALPHABET}})
    write_readings(tmp_path, ["a"], ["xyzz"], [0.5])
    diagnosis = write_diagnosis(tmp_path, ["xyzz"])
    assert "in use" in _Page(write_report(tmp_path)).text
    _write_json(tmp_path / DIAGNOSIS, diagnosis | {key: value})
    page = _Page(write_report(tmp_path))
    assert "diagnosis.json is not what simgan-captcha run writes" in page.text
    assert "The run has no accuracy estimate." in page.text
    assert "Mean confidence" in page.text
    assert page.alt("Share of each character among all characters read")


def test_costs_are_added_up(page: _Page) -> None:
    assert "12 min 0 s" in page.text  # 4.2 + 1.5 + 0.4 + 212 + 312.5 + 180 + 9, rounded
    assert "18.40" in page.text  # 4.1 + 11 + 3.3 TFLOP
    assert "153,600" in page.text


def test_first_middle_and_last_refiner_sheets_are_shown(page: _Page) -> None:
    alts = [image["alt"] or "" for image in page.images]
    shown = [alt for alt in alts if alt.startswith("Step ")]
    assert [alt.split(":")[0] for alt in shown] == ["Step 500", "Step 1500", "Step 2000"]


def test_curves_are_grouped_by_what_they_measure(page: _Page) -> None:
    losses = page.alt("refiner adversarial from")["alt"] or ""
    assert "regularization from" in losses
    assert "discriminator loss from" in losses
    assert "images per second" not in page.source
    assert page.alt("discriminator accuracy from")["alt"] != losses
    assert page.alt("learning rate from 0.001 at step 10 to 0 at step 2000")
    assert page.alt("pseudo label rate from")


def test_alarms_of_the_stages_are_shown(page: _Page) -> None:
    assert "the refiner changes 0.4 grey levels a pixel: nearly the identity" in page.text


def test_the_reading_of_lowest_confidence_comes_first(page: _Page, whole_run: Path) -> None:
    rows = pq.read_table(whole_run / "readings" / "readings.parquet").to_pylist()
    least = min(rows, key=lambda row: row["confidence"])
    first = page.alt("captcha read as")
    assert first["alt"] == f"captcha read as {least['text']}"
    stored = CaptchaStore(whole_run / "store").image(least["name"])
    assert b64decode((first["src"] or "").partition(",")[2]) == stored


def test_the_most_confident_mistake_comes_first(page: _Page, whole_run: Path) -> None:
    worst = json.loads((whole_run / "judge" / "judgement.json").read_text())["wrong"][0]
    assert page.alt("captcha of ")["alt"] == f"captcha of {worst['truth']}, read as {worst['read']}"


def test_provenance(page: _Page) -> None:
    assert "simgan-captcha run first-run --preset quick --seed 1" in page.text
    assert "two test cores" in page.text
    assert "torch 2.13.0" in page.text


def test_the_report_of_an_empty_run_lists_what_is_missing(tmp_path: Path) -> None:
    _write_json(tmp_path / "run.json", {"seed": 3})
    page = _Page(write_report(tmp_path))
    assert "This run has not been judged against labels. It used none." in page.text
    for missing in (
        "The background stage has saved no picture.",
        "The simulator has saved no sheet.",
        "The store holds no captchas.",
        "The refiner has saved no sheet",
        "No metrics: the stage has not run, or was turned off.",
        "There are no readings yet.",
    ):
        assert missing in page.text
    assert "Warnings" not in page.headings
    assert "Accuracy against labels" not in page.headings
    assert "Accuracy estimate" not in page.headings
    assert page.images == []


@pytest.mark.parametrize("content", [None, "{", "[1]", "[" * 100_000])
def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunError, match=r"readable run\.json"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_damaged_files_are_named_and_do_not_stop_the_report(tmp_path: Path) -> None:
    _write_json(tmp_path / "run.json", {"seed": "x", "config": 3, "scheme": [1]})
    for damaged in (
        "store/part-0.parquet",
        "background/background.npz",
        "background/background.png",
        "simulate/sheet.png",
        "refine/sheet-000500.png",
        "readings/readings.parquet",
        "readings/diagnosis.json",
        "read/manifest.json",
        "submission/verdict.json",
    ):
        path = tmp_path / damaged
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\x89PNG no, not whole")
    _write_json(tmp_path / "judge" / "judgement.json", {"captcha_accuracy": 1})
    _write_json(
        tmp_path / "adapt" / "manifest.json",
        {"seconds": "long", "images": None, "versions": 1, "result": {"warnings": "none"}},
    )
    (tmp_path / "read" / "metrics.jsonl").write_text(
        '{"step": 1, "loss": 2.5}\n{"step": 1, "loss": 1.5}\n{"step": 2, "loss": null}\n'
        '{"loss": 1}\n[3]\n{"step": 3, "lo'
    )
    page = _Page(write_report(tmp_path))
    for named in (
        "part-0.parquet",
        "background.npz",
        "background.png",
        "simulate/sheet.png",
        "sheet-000500.png",
        "readings.parquet",
        "diagnosis.json",
        "read/manifest.json",
        "verdict.json",
        "judgement.json is not what simgan-captcha judge writes",
        "metrics.jsonl: loss was not finite 1 times",
        "metrics.jsonl: 3 lines are not metrics",
    ):
        assert named in page.text
    assert page.alt("loss from 1.5 at step 1 to 1.5 at step 1")


@pytest.mark.parametrize("confidence", [None, math.nan, 1.5])
def test_impossible_confidences_are_named(tmp_path: Path, confidence: float | None) -> None:
    _write_json(tmp_path / "run.json", {})
    write_readings(tmp_path, ["a", "b"], ["xy", "zz"], [0.5, confidence])
    page = _Page(write_report(tmp_path))
    assert "readings.parquet, the file is damaged" in page.text
    assert "There are no readings yet." in page.text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("captcha_accuracy", None),
        ("captcha_interval", [0.5]),
        ("images", "many"),
        ("per_position", [None]),
        ("per_character", {"a": {"right": 1, "total": 1, "accuracy": None}}),
        ("confusion_matrix", {"a": 3}),
        ("confusions", [{"truth": "a"}]),
        ("calibration", [{"confidence": 1}]),
        ("wrong", [{"name": "a"}]),
    ],
)
def test_a_judgement_of_another_shape_is_named(tmp_path: Path, key: str, value: object) -> None:
    _write_json(tmp_path / "run.json", {})
    judgement = judge(["a"], ["xy"], {"a": "xz"}, "xyz", confidences=[0.5]).model_dump(mode="json")
    _write_json(tmp_path / "judge" / "judgement.json", judgement)
    assert "Accuracy against labels" in _Page(write_report(tmp_path)).headings
    _write_json(tmp_path / "judge" / "judgement.json", judgement | {key: value})
    page = _Page(write_report(tmp_path))
    assert "judgement.json is not what simgan-captcha judge writes" in page.text
    assert "Accuracy against labels" not in page.headings


FOUND = {
    "x": [[[2.1, 0.2], [20.4, 0.3]], [[27, 0.2], [45.5, 0.3]]],
    "pitch": [24.9, 0.08],
    "y": [[14, 0.1], [36.25, 0.1]],
    "rotation": [[-30.5, 0.6], [29, 0.6]],
    "forms": {"size": [[0.75, 0.01], [1.3, 0.02]], "taper": [[-0.4, 0.01], [0.5, 0.02]]},
    "font_size": [23.5, 0.4],
    "stroke_weight": [1.2, 0.02],
    "rendering": {"ink": [250.1, 0.2], "jpeg_quality": [49.7, 0.4]},
    "fonts": {"a": ["stix-bold", 24, 0.981], "g": ["roboto-black", 21, 0.612]},
    "warnings": ["'g' looks like no font"],
}


def calibrated(run: Path, result: object) -> _Page:
    """The report of a run that has only finished calibration."""
    _write_json(run / "run.json", {"scheme": {"alphabet": "ag"}})
    (run / "calibrate").mkdir(exist_ok=True)
    (run / "calibrate" / "glyphs.png").write_bytes(encode_png(np.zeros((80, 160), np.uint8)))
    _manifest(run, "calibrate", result=result)
    return _Page(write_report(run))


def test_calibration_is_shown_with_standard_errors(tmp_path: Path) -> None:
    page = calibrated(tmp_path, FOUND)
    assert "Calibration" in page.headings
    text = " ".join(page.text.split())
    for figure in (
        "2.1 ± 0.2 to 20.4 ± 0.3; 27 ± 0.2 to 45.5 ± 0.3",
        "distance between slots (pixels)24.9 ± 0.08",
        "-30.5 ± 0.6 to 29 ± 0.6",
        "size, each letter (middle 98 %)0.75 ± 0.01 to 1.3 ± 0.02",
        "taper: wider towards the bottom (share, per image height), each letter (middle 98 %)"
        "-0.4 ± 0.01 to 0.5 ± 0.02",
        "font size (pixels per em)23.5 ± 0.4",
        "jpeg quality49.7 ± 0.4",
        "'g' looks like no font",
    ):
        assert figure in text, figure
    # The lowest similarity comes first.
    assert text.index("groboto-black210.61") < text.index("astix-bold240.98")


def test_an_incomplete_calibration_is_shown_without_the_missing_figures(tmp_path: Path) -> None:
    missing: dict[str, object] = {
        "pitch": None,
        "font_size": None,
        "stroke_weight": None,
        "fonts": {},
    }
    text = calibrated(tmp_path, {**FOUND, **missing}).text
    assert "rotation (degrees" in text
    assert "distance between slots" not in text
    assert "pixels per em" not in text


@pytest.mark.parametrize(
    "result",
    [
        None,
        [1],
        {
            "x": {"a": 1},
            "y": "<marquee>",
            "rotation": [[1], [2, 3, 4]],
            "pitch": [None, float("nan")],
        },
        {"fonts": {"a": ["f", 1], "b": ["f", "<marquee>", "x"], "c": 3}, "rendering": ["ink"]},
        {
            "fonts": {"b": [["f"], "<marquee>", 0.5]},
            "x": [[[[[]]]]],
            "rotation": [[True, 1], [2, 3]],
        },
    ],
)
def test_a_calibration_of_another_shape_does_not_stop_the_report(
    tmp_path: Path, result: object
) -> None:
    page = calibrated(tmp_path, result)
    assert "Calibration" in page.headings
    assert "marquee" not in page.tags


def test_text_from_outside_stays_text(tmp_path: Path, captchas: dict[str, bytes]) -> None:
    hostile = "<script>alert('\"&')</script>"
    run = tmp_path / "<b>run"
    run.mkdir()
    _write_json(run / "run.json", {"preset": hostile, "command": hostile, "seed": 1})
    CaptchaStore(run / "store").add("x", [Captcha(hostile, next(iter(captchas.values())))])
    write_readings(run, [hostile, "../../etc/passwd"], ['"><img src=x>', "$\\frac"], [0.4, 0.6])
    diagnosis = write_diagnosis(run, ["aaaa"])
    pair = {"truth": hostile, "read": hostile, "share": 0.5}
    _write_json(run / DIAGNOSIS, diagnosis | {"warnings": [hostile], "confusions": [pair]})
    _manifest(run, "read", machine=hostile, result={"warnings": [hostile]}, versions={hostile: 1})
    _write_metrics(run / "read" / "metrics.jsonl", [{"step": 1, f"$_{hostile}": 1.0}])
    _write_json(run / "submission" / "verdict.json", {"error": hostile, "message": "\ud800"})
    page = _Page(write_report(run))
    assert "script" not in page.tags
    assert page.text.count(hostile) >= 5
    assert all(link.startswith("data:image/") for link in page.links)
    assert "not in the store" in page.text
    assert "The puzzle server did not accept the submission" in page.text


def test_heavy_sheets_are_shrunk(tmp_path: Path) -> None:
    _write_json(tmp_path / "run.json", {})
    noise = np.random.default_rng(1).integers(0, 256, (1600, 1200, 3), np.uint8)
    for path in (
        tmp_path / "simulate" / "sheet.png",
        *(tmp_path / "refine" / f"sheet-{step}.png" for step in (1, 2, 3)),
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode_png(noise))
    report = write_report(tmp_path)
    assert report.stat().st_size < 3_000_000
    source = _Page(report).alt("A sheet of synthetic captchas")["src"] or ""
    open_picture(b64decode(source.partition(",")[2]), width=750, height=1000)


def test_a_large_foreign_alphabet(tmp_path: Path) -> None:
    alphabet = "".join(chr(0x4E00 + number) for number in range(3000))
    _write_json(tmp_path / "run.json", {"scheme": {"alphabet": alphabet}})
    write_readings(tmp_path, ["a", "b"], [alphabet[:4], alphabet[2:6]], [0.5, 0.9])
    page = _Page(write_report(tmp_path))
    assert "2,920 characters closer to the expected share are not shown" in page.text
    assert alphabet[2] in (page.alt("Share of each character")["alt"] or "")


def test_long_curves_are_thinned_to_means() -> None:
    curve = [(float(step), 1.0) for step in range(50_000)]
    drawing = b64decode(charts.curves({"loss": curve}).partition(",")[2])
    assert len(drawing) < 40_000


def test_charts_are_the_same_every_time() -> None:
    assert charts.curves({"loss": [(1, 0.5)]}) == charts.curves({"loss": [(1, 0.5)]})
