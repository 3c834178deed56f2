"""The page of a folder of images: from a first look to an exported reader, at tiny size."""

import os
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import pytest
from playwright.sync_api import Page, Route, expect

from simgan_captcha.cli.use import look_at_images
from simgan_captcha.inference.reader import Reader
from simgan_captcha.pipeline.run_folder import RUN, Request, read_run
from simgan_captcha.scheme import load_scheme
from simgan_captcha.serving.child import start_command
from simgan_captcha.web.jobs import command
from simgan_captcha.web.jobs.learning import SCHEME as SCHEME_FILE
from simgan_captcha.web.jobs.learning import NewRun
from tests.commands import processes_with
from tests.small_run import ASSIGNMENTS, PRETRAINED, draw_captchas
from tests.web.conftest import OpenPage, keep_screenshot
from tests.web.serving import asking, serving
from tests.web.test_pages import CONTRASTS, WHOLE_RUN, active, is_drawn
from tests.web.test_read_api import a_problem
from tests.web.test_server import COMMAND, started
from tests.web.test_teaching import wait_until

TINY = [
    f"--set={assignment}"
    for assignment in (*ASSIGNMENTS, *PRETRAINED)
    if not assignment.startswith("scheme.")
]
FORM = {
    "alphabet": "abc1",
    "min_length": 2,
    "max_length": 2,
    "background": "shared",
    "ignore_case": False,
    "preset": "quick",
}


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> NewRun:
    """The first look at 60 images; the run is moved to the folder of the test."""
    images = tmp_path_factory.mktemp("new") / "captchas"
    images.mkdir()
    for number, (image, _) in enumerate(draw_captchas(60)):
        (images / f"{number}.jpg").write_bytes(image)
    (images / "notes.txt").write_text("no image")
    found = look_at_images(images)
    assert found.run == images.parent / "captchas-run"
    return found


@pytest.fixture
def here(new: NewRun, tmp_path: Path) -> NewRun:
    values = {**vars(new), "run": tmp_path / "captchas-run"}
    return NewRun(**values)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command ``run`` of the page trains as little as possible."""

    def start(arguments: Sequence[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
        more = TINY if arguments[0] == "run" else []
        return start_command([*arguments, *more], output)

    monkeypatch.setattr(command, "start_command", start)


OUTSIDE = """[...document.querySelectorAll('section :not(.contact *)')]
  .filter(e => e.getClientRects().length
    && e.getBoundingClientRect().right > e.closest('section').getBoundingClientRect().right)
  .map(e => e.outerHTML)"""
"""Elements that stick out of their section."""


def fits(page: Page) -> None:
    """The page fits its width, and its controls are large enough for a finger."""
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    for one in page.locator("button:visible, select, input, nav a").all():
        box = one.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 400
        assert box["height"] >= 24, one.evaluate("e => e.outerHTML")
    assert [text for text, contrast in page.evaluate(CONTRASTS) if contrast < 4.5] == []


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("tiny")
def test_from_a_folder_of_images_to_an_exported_reader(
    here: NewRun, tmp_path: Path, open_page: OpenPage
) -> None:
    with serving(here.run, new=here) as address:
        page = open_page(address, width=1280)
        expect(page).to_have_url(f"{address}/start")
        expect(page.locator("h1")).to_have_text("Learn from your images")
        expect(page.locator(".lead")).to_contain_text("60 of 60 images were inspected.")
        expect(page.locator(".notice")).to_contain_text("text")
        expect(page.get_by_text(str(here.run))).to_be_visible()
        assert is_drawn(page.locator("#contact-sheet"))
        keep_screenshot(page, "start")

        # A wrong value is reported by the scheme itself, at its field.
        page.get_by_label("All characters").fill("abca")
        page.get_by_role("button", name="Learn").click()
        said = page.locator(".job-said")
        expect(said).to_have_text("alphabet: the alphabet repeats 'a'; name each character once")
        expect(page.get_by_label("All characters")).to_be_focused()
        expect(page.get_by_role("status")).to_have_text("Learning has not started.")
        keep_screenshot(page, "start-refused")
        assert not here.run.exists()

        page.get_by_label("All characters").fill("abc1")
        page.get_by_label("from").fill("2")
        page.get_by_label("to", exact=True).fill("2")
        page.get_by_label("Background").select_option("shared")
        page.get_by_role("button", name="Learn").click()
        expect(page).to_have_url(f"{address}/run")
        expect(page.get_by_role("button", name="Stop")).to_be_visible()
        expect(page.get_by_role("button", name="Export")).to_be_hidden()
        keep_screenshot(page, "learning")
        expect(page.get_by_role("button", name="Export")).to_be_visible(timeout=WHOLE_RUN)
        expect(page.locator("#diagnosis")).to_contain_text("Accuracy estimate")
        expect(page.get_by_role("button", name="Stop")).to_be_hidden()

        # Without a restart, the page exports, reads, and reviews.
        page.get_by_role("button", name="Export").click()
        link = page.get_by_role("link", name="Download the file")
        expect(link).to_be_visible()
        keep_screenshot(page, "learned")
        with page.expect_download() as download:
            link.click()
        assert download.value.suggested_filename == "captchas-run.onnx"
        image = here.images / "0.jpg"
        text = Reader(Path(download.value.path())).read(image).text
        page.get_by_role("link", name="Read", exact=True).click()
        page.set_input_files("#files", image)
        expect(page.locator(".said-text .text")).to_have_text(text)
        page.get_by_role("link", name="Review", exact=True).click()
        expect(page.locator(".card")).to_have_count(60)
        page.goto(f"{address}/start")
        expect(page.locator("#begun")).to_contain_text("A run on these images exists")
        expect(page.get_by_label("All characters")).to_have_value("abc1")
    recorded = read_run(here.run)
    assert recorded["preset"] == "quick"
    assert recorded["scheme"]["alphabet"] == "abc1"


@pytest.mark.usefixtures("tiny")
def test_the_start_page_by_keyboard_on_a_phone(here: NewRun, open_page: OpenPage) -> None:
    with serving(here.run, new=here) as address:
        for scheme in ("light", "dark"):
            page = open_page(f"{address}/review", width=400, scheme=scheme)
            expect(page).to_have_url(f"{address}/start")
            fits(page)
            assert page.evaluate(OUTSIDE) == []
            keep_screenshot(page, f"start-400-{scheme}")
        assert page.locator('[role="status"]').count() == 1
        for name in (
            "#content",
            "start",
            "read",
            "DIV",
            "alphabet",
            "ignore_case",
            "min_length",
            "max_length",
        ):
            page.keyboard.press("Tab")
            focused = active(page)
            assert name in (focused, page.evaluate("document.activeElement.tagName")), focused
        for name in ("background", "preset", "BUTTON"):
            page.keyboard.press("Tab")
            assert active(page) == name
        page.keyboard.press("Enter")
        expect(page).to_have_url(f"{address}/run")
        expect(page.get_by_role("button", name="Stop")).to_be_visible()
        fits(page)
        keep_screenshot(page, "learning-400")
        page.get_by_role("button", name="Stop").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_contain_text("Learning was stopped.")
        expect(page.get_by_role("link", name="Continue it.")).to_be_visible()
        assert not processes_of(here.run)


def test_images_are_read_before_and_during_the_run(here: NewRun, open_page: OpenPage) -> None:
    image = here.images / "0.jpg"
    with serving(here.run, new=here) as address:
        page = open_page(f"{address}/start", width=400)
        page.get_by_role("link", name="Read", exact=True).click()
        expect(page.locator(".notice")).to_contain_text("before learning")
        alphabet = page.get_by_label("All characters")
        expect(alphabet).to_have_value(here.scheme.alphabet)
        alphabet.fill("abc1")
        page.get_by_label("from").fill("2")
        page.get_by_label("to", exact=True).fill("2")
        page.set_input_files("#files", image)
        said = page.locator(".said-text").first
        expect(said.locator(".share")).to_contain_text("read by the generalist, before learning")
        assert re.fullmatch("[abc1]{2}", said.locator(".text").inner_text())
        characters = page.locator(".characters li")
        expect(characters).to_have_count(2)
        # The generalist gives no heat map.
        assert page.locator(".answer img").count() == 1
        fits(page)
        assert page.evaluate(OUTSIDE) == []
        keep_screenshot(page, "read-before-400")

        scheme = here.scheme.model_copy(update={"alphabet": "abc1", "length": 2})
        # A page that was opened before the run began says what to do.
        Request(str(here.images), scheme=scheme).record(here.run)
        page.set_input_files("#files", image)
        expect(page.locator(".refused .reason")).to_contain_text("reload the page")
        page.reload()
        expect(page.locator(".notice")).to_contain_text("This run is not finished.")
        expect(page.locator("#family")).to_have_count(0)
        page.set_input_files("#files", image)
        expect(said.locator(".share")).to_contain_text("read by the generalist, before learning")
        assert re.fullmatch("[abc1]{2}", said.locator(".text").inner_text())
        keep_screenshot(page, "read-during-400")


def test_the_page_without_a_run_reads(open_page: OpenPage, new: NewRun) -> None:
    with started("--port", "0") as (_, address):
        page = open_page(address)
        expect(page.locator(".notice")).to_contain_text("The page was started without a run")
        expect(page.locator("nav a")).to_have_count(1)
        page.set_input_files("#files", new.images / "0.jpg")
        share = page.locator(".said-text .share")
        expect(share).to_contain_text("read by the generalist")
        expect(share).not_to_contain_text("before learning")
        page.get_by_label("from").fill("5")
        page.get_by_label("to", exact=True).fill("3")
        page.set_input_files("#files", new.images / "0.jpg")
        expect(page.locator(".refused .reason")).to_contain_text("expected a length of 1 to 32")
        keep_screenshot(page, "read-generalist")


def test_values_that_no_scheme_allows_are_refused(here: NewRun) -> None:
    with serving(here.run, new=here) as address, asking(address) as client:
        for wrong, message in (
            ({"alphabet": "a"}, "alphabet: String should have at least 2 characters"),
            ({"min_length": 3}, "length: expected a number from 1 to 64"),
            ({"max_length": 65, "min_length": 1}, "length: expected a number from 1 to 64"),
            ({"min_length": None}, "min_length: Input should be a valid integer"),
            ({"preset": "../paper"}, "preset: Input should be 'quick' or 'cpu'"),
            ({"run": "/tmp/elsewhere"}, "run: Extra inputs are not permitted"),
        ):
            a_problem(client.post("/api/learning", json=FORM | wrong), 422, message)
        other_site = {"Origin": "http://evil.example"}
        reply = client.post("/api/learning", json=FORM, headers=other_site)
        a_problem(reply, 403, "another site")
        a_problem(client.delete("/api/learning", headers=other_site), 403, "another site")
        a_problem(client.get("/api/reader.onnx"), 404, "export it first")
        # A proxy can serve the page under another path.
        assert re.findall(r"""["'`(=]/\w[^"'`)]*""", client.get("/start").text) == []
        assert client.get("/api/learning").json() == {
            "state": "none",
            "said": "",
            "begun": False,
        }
    assert not here.run.exists()


@pytest.mark.usefixtures("tiny")
def test_a_form_becomes_a_scheme_and_one_run_at_a_time_learns(here: NewRun) -> None:
    form = FORM | {"alphabet": "aAbc1", "min_length": 1, "ignore_case": True}
    with serving(here.run, new=here) as address, asking(address) as client:
        reply = client.post("/api/learning", json=form)
        assert reply.status_code == 202
        assert reply.json()["state"] == "working"
        a_problem(client.post("/api/learning", json=form), 409, "one run at a time")
        scheme = load_scheme(here.run / SCHEME_FILE)
        assert (scheme.alphabet, scheme.equivalents) == ("abc1", ("aA", "bB", "cC"))
        assert (scheme.min_length, scheme.max_length) == (1, 2)
        assert (scheme.width, scheme.height) == (48, 24)
        wait_until(lambda: (here.run / RUN).exists())
        assert 'id="ignore_case" name="ignore_case" checked' in client.get("/start").text
        assert client.delete("/api/learning").json()["state"] == "none"
    assert not processes_of(here.run)


def test_the_failure_of_a_run_is_shown_in_words(
    here: NewRun, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(arguments: Sequence[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
        return start_command([*arguments, "--set=reader.stops=1"], output)

    monkeypatch.setattr(command, "start_command", start)
    with serving(here.run, new=here) as address:
        page = open_page(f"{address}/start")
        page.get_by_role("button", name="Learn").click()
        expect(page.locator(".job")).to_contain_text(re.compile("Not learned: .*did you mean"))
        expect(page.get_by_role("status")).to_have_text("Learning has failed.")
        keep_screenshot(page, "start-failed")


@pytest.mark.usefixtures("tiny")
def test_the_run_page_shows_that_the_run_was_lost(here: NewRun, open_page: OpenPage) -> None:
    with serving(here.run, new=here) as address, asking(address) as client:
        assert client.post("/api/learning", json=FORM).status_code == 202
        wait_until(lambda: (here.run / RUN).exists())
        page = open_page(f"{address}/run")
        wait_until(lambda: bool(processes_of(here.run)))
        for process in processes_of(here.run):
            os.kill(process, signal.SIGKILL)
        expect(
            page.locator(".job", has_text="Not learned: the command ended with code")
        ).to_be_visible()
        page.get_by_role("link", name="Back to the start page").click()
        expect(page.locator("#begun")).to_be_visible()


def test_a_run_whose_folder_cannot_be_written_is_a_problem(here: NewRun) -> None:
    here.run.write_text("a file where the folder should be")
    with serving(here.run, new=here) as address, asking(address) as client:
        a_problem(client.post("/api/learning", json=FORM), 503, "expected to write")


def test_a_killed_server_leaves_no_run(new: NewRun) -> None:
    run = new.run
    with started(new.images, "--port", "0") as (server, address), asking(address) as client:
        assert client.post("/api/learning", json=FORM).status_code == 202
        wait_until(lambda: bool(processes_of(run)))
        server.send_signal(signal.SIGKILL)
        server.wait()
        wait_until(lambda: not processes_of(run))


def test_a_folder_without_images_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    done = subprocess.run([*COMMAND, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 2
    assert "expected images" in done.stderr.splitlines()[-1]
    assert "got none of 1 entries" in done.stderr
    assert "Traceback" not in done.stderr


def processes_of(run: Path) -> list[int]:
    """The running commands that learn of this folder."""
    return processes_with(str(run), "run")


def test_images_that_are_chosen_before_the_script_is_loaded_are_read(
    open_page: OpenPage, new: NewRun
) -> None:
    with started("--port", "0") as (_, address):
        page = open_page(address)
        held: list[Route] = []
        page.route("**/static/read.js", lambda route: held.append(route))
        page.reload(wait_until="commit")
        page.set_input_files("#files", new.images / "0.jpg")
        while not held:
            page.wait_for_timeout(20)
        held[0].continue_()
        expect(page.locator(".said-text .share")).to_contain_text("read by the generalist")
