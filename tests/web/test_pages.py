"""The pages in a real headless Chromium, used like a person would.

Screenshots are kept in ``build/screenshots`` for people to look at.
"""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from playwright.sync_api import FileChooser, Locator, Page, expect

from simgan_captcha.atomic import file_hash
from simgan_captcha.data.batch import Captcha
from simgan_captcha.data.store import CaptchaStore
from simgan_captcha.evaluation.judge import judge
from simgan_captcha.evaluation.labels import read_labels_csv
from simgan_captcha.inference.readings import Reading, load_readings, save_readings
from simgan_captcha.pipeline.run_folder import JUDGEMENT, READINGS
from simgan_captcha.web.gallery import PAGE_SIZE
from tests.drawing import encode_jpeg
from tests.small_run import SCHEME, draw_captchas, run_arguments, write_challenges
from tests.web.conftest import OpenPage, keep_screenshot
from tests.web.serving import serving

MANY = 20_000
WHOLE_RUN = 600_000
"""Time of a tiny run on the slowest machine, in milliseconds."""


@pytest.fixture
def pictures(tmp_path: Path, captchas: dict[str, bytes]) -> list[Path]:
    """Two captchas as files."""
    paths = []
    for number, image in enumerate(list(captchas.values())[:2]):
        paths.append(tmp_path / f"captcha {number}.jpg")
        paths[-1].write_bytes(image)
    return paths


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, made: Path) -> Path:
    """The run with 20,000 artificial captchas and readings."""
    run = shutil.copytree(made, tmp_path_factory.mktemp("large") / "run")
    images = [image for image, _ in draw_captchas(20)]
    for part in (run / "store").glob("part-*.parquet"):
        part.unlink()
    store, random = CaptchaStore(run / "store"), np.random.default_rng(5)
    readings = []
    for batch in range(MANY // 1000):
        names = [f"{batch:02}-{number:03}" for number in range(1000)]
        store.add(str(batch), [Captcha(n, images[i % 20]) for i, n in enumerate(names)])
        for name in names:
            each = tuple(random.uniform(0.3, 1, SCHEME.max_length).tolist())
            text = SCHEME.decode(
                random.integers(0, len(SCHEME.alphabet), SCHEME.max_length).tolist()
            )
            readings.append(Reading(name, text, float(np.prod(each)), each))
    save_readings(run / READINGS, readings)
    return run


@pytest.fixture
def review(tmp_path: Path, large: Path) -> Iterator[tuple[Path, str]]:
    """A run of 20,000 readings that the test may change, and its address."""
    run = shutil.copytree(large, tmp_path / "run")
    with serving(run) as address:
        yield run, address


def is_drawn(picture: Locator) -> bool:
    """Whether the browser has the pixels of a picture; the security policy may block them."""
    # Without waiting: a live page may replace the picture before it is stable.
    picture.evaluate("image => image.scrollIntoView()")
    expect(picture).to_have_js_property("complete", True)
    return bool(picture.evaluate("image => image.naturalWidth") > 0)


def active(page: Page) -> str:
    """A short description of the element with the keyboard focus."""
    said: str = page.evaluate(
        "(e => e.id || e.getAttribute('href') || e.getAttribute('aria-label') || e.tagName)"
        "(document.activeElement)"
    )
    return said


# Reading.


def test_upload_and_read(
    address: str, client: httpx.Client, open_page: OpenPage, pictures: list[Path]
) -> None:
    said = [
        client.post("/api/read", files={"files": (path.name, path.read_bytes())}).json()[
            "readings"
        ][0]
        for path in pictures
    ]
    page = open_page(address)
    page.set_input_files("#files", pictures)
    answers = page.locator(".answer")
    expect(answers).to_have_count(2)
    # The latest first.
    for answer, reading in zip([answers.nth(1), answers.nth(0)], said, strict=True):
        expect(answer.locator(".said-text .text")).to_have_text(reading["text"])
        expect(answer.locator(".file")).to_have_text(reading["name"])
        characters = answer.locator(".characters li")
        expect(characters).to_have_count(SCHEME.max_length)
        for slot, confidence in enumerate(reading["character_confidence"]):
            part = characters.nth(slot)
            expect(part.locator(".text")).to_have_text(reading["text"][slot])
            expect(part.locator(".share")).to_have_text(f"{100 * confidence:.1f} %")
        for picture in answer.locator("img").all():
            assert is_drawn(picture)
        assert answer.locator("img").count() == 2 + SCHEME.max_length
    expect(page.get_by_role("status")).to_have_text("2 images read.")
    keep_screenshot(page, "read")


def test_pasted_and_dropped_images_are_read(
    address: str, open_page: OpenPage, captchas: dict[str, bytes]
) -> None:
    page = open_page(address)
    image = list(next(iter(captchas.values())))
    make = (
        "const data = new DataTransfer();"
        "data.items.add(new File([new Uint8Array(bytes)], 'x.jpg'));"
    )
    page.evaluate(
        f"bytes => {{ {make} document.dispatchEvent("
        "new ClipboardEvent('paste', {clipboardData: data, bubbles: true})); }",
        image,
    )
    expect(page.locator(".answer")).to_have_count(1)
    page.evaluate(
        f"bytes => {{ {make} document.body.dispatchEvent("
        "new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true})); }",
        image,
    )
    expect(page.locator(".answer")).to_have_count(2)
    expect(page.locator(".refused")).to_have_count(0)


def test_a_wrong_file_is_reported_and_the_next_is_read(
    address: str, open_page: OpenPage, tmp_path: Path, pictures: list[Path]
) -> None:
    text = tmp_path / "<img src=x onerror=alert(1)>.jpg"
    text.write_text("no image")
    large = tmp_path / "large.jpg"
    large.write_bytes(encode_jpeg(np.zeros((50, 100), np.uint8), 90))
    page = open_page(address)
    page.set_input_files("#files", [text, large, pictures[0]])
    expect(page.locator(".answer")).to_have_count(3)
    reasons = page.locator(".refused .reason")
    expect(reasons.nth(1)).to_contain_text("expected an image")
    expect(reasons.nth(0)).to_contain_text("expected an image of 48x24 pixels, got 100x50")
    # Any name is shown as text.
    expect(page.locator(".refused .file").nth(1)).to_have_text(text.name)
    expect(page.get_by_role("status")).to_contain_text("2 could not be read.")
    keep_screenshot(page, "wrong-file")


def test_an_unreachable_server_is_reported(
    made: Path, open_page: OpenPage, pictures: list[Path]
) -> None:
    with serving(made) as address:
        page, other = open_page(address), open_page(f"{address}/run")
        expect(other.get_by_text("The run is finished.")).to_be_visible()
    page.set_input_files("#files", pictures[0])
    expect(page.locator(".refused .reason")).to_contain_text("the server does not answer")
    expect(other.locator("#announced")).to_contain_text("The server does not answer")
    # A proxy in front of the server still answers with a page.
    page.route("**/api/read*", lambda route: route.fulfill(status=502, body="<h1>Bad Gateway"))
    page.set_input_files("#files", pictures[0])
    expect(page.locator(".refused .reason").first).to_contain_text("got a page with status 502")


# The run.


@pytest.mark.timeout(1800)
def test_live_progress_of_a_run_that_another_process_makes(
    tmp_path: Path, open_page: OpenPage
) -> None:
    write_challenges(tmp_path / "challenges", draw_captchas())
    run = tmp_path / "run"
    settings = ("recognizer.steps=500", "recognizer.images=raw")
    arguments = run_arguments(run, tmp_path / "challenges", *settings)
    with subprocess.Popen(
        [sys.executable, "-m", "simgan_captcha", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as learning:
        try:
            while not (run / "run.json").exists():
                assert learning.poll() is None
                time.sleep(0.1)
            with serving(run) as address:
                page = open_page(f"{address}/run")
                reader = page.locator('[data-stage="read"]')
                expect(reader).to_have_attribute("data-state", "working", timeout=WHOLE_RUN)
                expect(reader.locator(".count")).to_have_text(re.compile(r"^[1-9]\d* of 500 steps"))
                expect(reader.locator(".said")).to_contain_text("loss")
                seen = float(reader.locator("progress").get_attribute("value") or 0)
                page.wait_for_function(
                    "seen => document.querySelector('[data-stage=read] progress').value > seen",
                    arg=max(seen, 1),
                )
                keep_screenshot(page, "run-in-progress")
                # Without a reload, the page shows the end, the curves and the diagnosis.
                expect(page.locator("#announced")).to_have_text(
                    "The run is finished.", timeout=WHOLE_RUN
                )
                expect(page.locator("#curves img").first).to_be_visible()
                assert is_drawn(page.locator("#curves img").first)
                expect(page.locator("#diagnosis")).to_contain_text("Accuracy estimate")
                expect(page.locator("#results")).to_contain_text("240")
        finally:
            learning.send_signal(signal.SIGKILL)


def test_the_run_page_shows_curves_sheets_diagnosis_and_then_the_judge_s_figures(
    run: Path, open_page: OpenPage
) -> None:
    with serving(run) as address:
        page = open_page(f"{address}/run")
        for picture in page.locator("#curves img").all():
            assert is_drawn(picture)
        assert page.locator("#curves img").count() >= 6

        slider, sheet = page.get_by_label("Step"), page.locator("#sheet")
        assert is_drawn(sheet)
        expect(sheet).to_have_attribute("src", "api/run/sheets/8")
        slider.focus()
        for key, step in (("ArrowLeft", 6), ("Home", 3), ("End", 8), ("ArrowLeft", 6)):
            page.keyboard.press(key)
            expect(sheet).to_have_attribute("src", f"api/run/sheets/{step}")
            expect(slider).to_have_attribute("aria-valuetext", f"step {step}")
            assert is_drawn(sheet)

        expect(page.locator("#diagnosis")).to_contain_text(
            "This run has not been judged against labels"
        )
        readings = load_readings(run / READINGS)
        truth = {reading.name: "ab" for reading in readings}
        names, texts = [r.name for r in readings], [r.text for r in readings]
        figures = judge(names, texts, truth, SCHEME.alphabet).model_dump(mode="json")
        figures["readings_sha256"] = file_hash(run / READINGS)
        (run / JUDGEMENT).parent.mkdir()
        (run / JUDGEMENT).write_text(json.dumps(figures))
        expect(page.locator("#results")).to_contain_text("against labels")
        expect(page.locator("#diagnosis")).to_contain_text("Hardest characters")
        assert is_drawn(page.locator("#diagnosis .gallery img").first)
        # A viewer of an earlier step still sees it.
        expect(sheet).to_have_attribute("src", "api/run/sheets/6")
        keep_screenshot(page, "run")


# Reviewing.


def test_gallery_review(review: tuple[Path, str], open_page: OpenPage) -> None:
    run, address = review
    readings = load_readings(run / READINGS)
    least = sorted(readings, key=lambda reading: reading.confidence)
    before = file_hash(run / READINGS)
    page = open_page(f"{address}/review?order=least")
    cards = page.locator(".card")
    expect(cards).to_have_count(PAGE_SIZE)
    expect(page.get_by_text("1 to 60 of 20,000")).to_be_visible()
    expect(page.get_by_text("page 1 of 334")).to_be_visible()
    for number in range(3):
        expect(cards.nth(number).locator(".reading .text")).to_have_text(least[number].text)
        assert is_drawn(cards.nth(number).locator("img"))

    # The first is corrected, the second confirmed, the third corrected and then restored.
    truth = "1a" if least[0].text != "1a" else "1b"
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.keyboard.type(truth)
    page.keyboard.press("Enter")
    expect(cards.nth(0).locator(".verdict-word")).to_have_text("corrected")
    page.keyboard.press("Enter")
    expect(cards.nth(1).locator(".verdict-word")).to_have_text("confirmed")
    page.keyboard.type("cc")
    page.keyboard.press("Enter")
    expect(page.locator("#total")).to_have_text("3")
    cards.nth(2).get_by_role("button", name="remove").click()
    expect(page.locator("#total")).to_have_text("2")
    # An impossible text is reported, and the saved text stays.
    cards.nth(0).get_by_role("textbox").fill("zz")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("Not saved: the alphabet 'abc1' lacks 'z'")
    expect(cards.nth(0).get_by_role("textbox")).to_be_focused()
    keep_screenshot(page, "review")

    page.reload()
    expect(cards.nth(0).get_by_role("textbox")).to_have_value(truth)
    expect(cards.nth(1).locator(".verdict-word")).to_have_text("confirmed")
    expect(cards.nth(2).locator(".verdict-word")).to_have_text("")
    with page.expect_download() as download:
        page.get_by_role("link", name="Labels as CSV").click()
    labels = read_labels_csv(Path(download.value.path()))
    assert labels == {least[0].name: truth, least[1].name: least[1].text}
    assert file_hash(run / READINGS) == before

    page.get_by_label("Containing").select_option("c")
    page.get_by_label("Sort by").select_option("most")
    page.get_by_role("button", name="Show").click()
    holding = [reading for reading in least[::-1] if "c" in reading.text]
    expect(page.get_by_text(f"of {len(holding):,}", exact=False)).to_be_visible()
    expect(cards.nth(0).locator(".reading .text")).to_have_text(holding[0].text)
    page.get_by_role("link", name="next").click()
    expect(cards.nth(0).locator(".reading .text")).to_have_text(holding[PAGE_SIZE].text)
    expect(page.get_by_label("Containing")).to_have_value("c")


# Accessibility.


def test_keyboard_only(review: tuple[Path, str], open_page: OpenPage, pictures: list[Path]) -> None:
    _, address = review
    page = open_page(address)

    def tab(*expected: str) -> None:
        for each in expected:
            page.keyboard.press("Tab")
            assert active(page) == each
            # Keyboard users must see the focus.
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"

    tab("#content", "read", "run", "review", "files")
    chosen: list[FileChooser] = []
    page.on("filechooser", lambda chooser: chosen.append(chooser))
    for _ in range(60):
        page.keyboard.press("Enter")  # a new browser may lose the first key press
        page.wait_for_timeout(1000)
        if chosen:
            break
    chosen[0].set_files(pictures[0])
    expect(page.locator(".answer")).to_have_count(1)

    page.goto(f"{address}/review")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # skip to the content
    # Without a correction there is nothing to teach, so that button is left out.
    tab("order", "character", "BUTTON", "api/corrections.csv", "SUMMARY")
    cards = page.locator(".card")
    page.evaluate("document.activeElement.blur()")
    for key, number in (("j", 0), ("j", 1), ("ArrowDown", 2), ("k", 1), ("ArrowUp", 0), ("k", 0)):
        page.keyboard.press(key)
        expect(cards.nth(number)).to_be_focused()
    entry = cards.nth(0).get_by_role("textbox")
    page.keyboard.press("Enter")
    expect(entry).to_be_focused()
    was = entry.input_value()
    page.keyboard.type("jk")  # letters, in a text
    expect(entry).to_have_value("jk")
    page.keyboard.press("Escape")
    expect(cards.nth(0)).to_be_focused()
    expect(entry).to_have_value(was)
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    expect(cards.nth(1).get_by_role("textbox")).to_be_focused()
    # After the last captcha comes the next page.
    cards.nth(PAGE_SIZE - 1).get_by_role("textbox").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".pager [rel=next]")).to_be_focused()
    expect(page.locator("#total")).to_have_text("1")
    page.keyboard.press("Enter")
    expect(page.get_by_text("The 60 most useful of 19,999 captchas")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_400_pixels_wide_in_light_and_dark(
    review: tuple[Path, str], open_page: OpenPage, pictures: list[Path], scheme: str
) -> None:
    _, address = review
    page = open_page(address, width=400, scheme=scheme)
    page.set_input_files("#files", pictures)
    expect(page.locator(".answer")).to_have_count(2)
    for name in ("read", "run", "review"):
        if name != "read":
            page.goto(f"{address}/{name}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        # Controls are on the screen and large enough for a finger (WCAG 2.5.8).
        for one in page.locator("button:visible, select, input, nav a").all()[:20]:
            box = one.bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 400
            assert box["height"] >= 24, one.evaluate("e => e.outerHTML")
        faint = page.evaluate(CONTRASTS)
        assert [text for text, contrast in faint if contrast < 4.5] == []
        keep_screenshot(page, f"{name}-400-{scheme}")


CONTRASTS = """() => {
  // WCAG's contrast of every text against the nearest painted ground behind it.
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => numbers(colour).slice(0, 3).map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (numbers(colour)[3] !== 0) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  return [...document.querySelectorAll('main *, header *')]
    .filter(e => e.checkVisibility())
    .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
    .map(e => {
      const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
      return [e.textContent.trim().slice(0, 40), (a + .05) / (b + .05)];
    });
}"""


def test_pages_are_structured_for_screen_readers(address: str, open_page: OpenPage) -> None:
    for path in ("/", "/run", "/review"):
        page = open_page(f"{address}{path}")
        assert page.locator("h1").count() == 1
        assert page.locator("html").get_attribute("lang") == "en"
        expect(page.locator("nav [aria-current=page]")).to_have_count(1)
        unnamed = page.evaluate(
            "[...document.querySelectorAll('input, select, progress, meter')].filter(e => "
            "!(e.labels?.length || e.ariaLabel)).map(e => e.outerHTML)"
        )
        assert unnamed == []
        assert page.locator("img:not([alt])").count() == 0
        ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(ids) == len(set(ids))
        assert page.locator('[role="status"]').count() == 1
