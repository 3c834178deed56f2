"""Teaching a run with the corrections of the review page, at tiny size."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect

from simgan_captcha.atomic import file_hash
from simgan_captcha.inference.readings import load_readings
from simgan_captcha.pipeline.lesson import LABELS, LESSON, TEACH, load_lesson
from simgan_captcha.pipeline.questions import most_useful, texts_of_generalist
from simgan_captcha.pipeline.run import load_run_reader
from simgan_captcha.pipeline.run_folder import DIAGNOSIS, READINGS
from simgan_captcha.web.corrections import FILE, Corrections
from simgan_captcha.web.gallery import captcha_key
from simgan_captcha.web.jobs.lessons import OUTPUT, Lessons, TeachingStatus
from tests.commands import processes_with
from tests.small_run import PRETRAINED, SCHEME, draw_captchas, pipeline, write_challenges
from tests.web.conftest import OpenPage, keep_screenshot
from tests.web.serving import PATIENCE_SECONDS, asking, serving
from tests.web.test_read_api import a_problem
from tests.web.test_server import started

WHOLE_LESSON = 600_000
"""Time of a tiny lesson on the slowest machine, in milliseconds."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learned from the generalist. So little learning makes it estimate almost zero."""
    folder = tmp_path_factory.mktemp("finished")
    write_challenges(folder / "batches", draw_captchas(60))
    pipeline(folder / "run", folder / "batches", *PRETRAINED)
    diagnosis = json.loads((folder / "run" / DIAGNOSIS).read_text())
    # Zero, so that no lesson is worse.
    diagnosis["estimates"]["distill"] |= {"accuracy": 0.0, "low": 0.0}
    (folder / "run" / DIAGNOSIS).write_text(json.dumps(diagnosis))
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def questions(run: Path, answered: set[str]) -> list[str]:
    readings = load_readings(run / READINGS)
    return most_useful(readings, texts_of_generalist(run), answered, len(readings))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def ended(lessons: Lessons) -> TeachingStatus:
    """The status at the end of the lesson."""
    wait_until(lambda: lessons.status().state != "teaching")
    return lessons.status()


def correct(run: Path, count: int) -> dict[str, str]:
    """Correct the first questions."""
    texts = dict.fromkeys(questions(run, set())[:count], "1a")
    for name, text in texts.items():
        Corrections(run).put(name, text, SCHEME)
    return texts


@pytest.mark.timeout(1800)
def test_two_corrections_are_taught_with_the_button(
    run: Path, tmp_path: Path, open_page: OpenPage
) -> None:
    before = {path: file_hash(path) for path in run.rglob("*") if path.is_file()}
    asked = questions(run, set())
    image = tmp_path / "image.jpg"
    with serving(run) as address, asking(address) as client:
        image.write_bytes(client.get(f"/api/captchas/{captcha_key(asked[0])}").content)
        reading, page = open_page(address), open_page(f"{address}/review")
        # The most useful images come first.
        cards, button = page.locator(".card"), page.locator("#teach")
        keys = cards.evaluate_all("cards => cards.map(card => card.dataset.key)")
        assert keys == [captcha_key(name) for name in asked]
        expect(button).to_be_disabled()
        expect(button).to_have_text("Teach with 0 corrections")
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        for text, count in (("1a", "1 correction"), ("b1", "2 corrections")):
            page.keyboard.type(text)
            page.keyboard.press("Enter")
            expect(button).to_have_text(f"Teach with {count}")
        expect(page.locator("#total")).to_have_text("2")

        # By keyboard, without losing the focus.
        button.focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("progressbar", name="Teaching")).to_be_visible()
        expect(button).to_have_attribute("aria-disabled", "true")
        page.keyboard.press("Enter")  # does nothing
        # A line of progress, unless the lesson has ended already.
        expect(page.locator("#lesson")).to_contain_text(re.compile(r"\d+/\d+|Taught with"))
        keep_screenshot(page, "teaching")
        expect(page.locator("#lesson")).to_contain_text(
            re.compile(
                r"^Taught with 2 labels\. Estimated accuracy of whole captchas: before 0\.0% "
                r"\(.+\), after \d+\.\d% \(.+\)\. The taught recognizer is in use\.$"
            ),
            timeout=WHOLE_LESSON,
        )
        expect(page.locator("#said")).to_have_text("The lesson has ended.")
        expect(button).to_be_focused()
        expect(page.get_by_role("progressbar", name="Teaching")).to_be_hidden()
        keep_screenshot(page, "taught")
        page.set_viewport_size({"width": 400, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        keep_screenshot(page, "taught-400")

        # Answered questions are not asked again, and the result stays.
        page.reload()
        keys = cards.evaluate_all("cards => cards.map(card => card.dataset.key)")
        assert keys == [captcha_key(name) for name in questions(run, set(asked[:2]))]
        expect(page.locator("#lesson")).to_contain_text("Taught with 2 labels.")

        # The taught recognizer reads, on a page that was open before, too.
        reading.set_input_files("#files", image)
        share = reading.locator(".said-text .share")
        expect(share).to_contain_text("recognizer taught with 2 labels")
        page.get_by_role("link", name="Read images with the taught recognizer").click()
        expect(page.locator(".lead")).to_contain_text("The recognizer was taught with 2 labels.")
        keep_screenshot(reading, "read-taught")

    lesson = load_lesson(run)
    assert lesson is not None
    assert lesson.better
    kept = json.loads((run / LABELS).read_text())["texts"]
    assert kept == {asked[0]: "1a", asked[1]: "b1"}
    taught, first = load_run_reader(run)[0], load_run_reader(run, taught=False)[0]
    assert any(
        not a.equal(b)
        for a, b in zip(taught.state_dict().values(), first.state_dict().values(), strict=True)
    )
    # The readings and figures without labels are as they were.
    assert before == {path: file_hash(path) for path in before}
    added = {path for path in run.rglob("*") if path.is_file()} - set(before)
    assert {path.parent for path in added} == {run / TEACH, (run / FILE).parent}


def test_images_labelled_in_the_terminal_are_not_asked_about(run: Path) -> None:
    first, second = questions(run, set())[:2]
    (run / TEACH).mkdir()
    (run / LABELS).write_text(json.dumps({"texts": {first: "ab"}}))
    with serving(run) as address, asking(address) as client:
        page = client.get("/review").text
        assert captcha_key(first) not in page
        assert captcha_key(second) in page
        assert "The 1 label given elsewhere counts, too." in page
        assert captcha_key(first) in client.get("/review?order=least").text
        (run / LABELS).write_text("{")
        assert "mend it or delete it" in client.get("/review").text


def test_without_corrections_nothing_is_taught(run: Path) -> None:
    with serving(run) as address, asking(address) as client:
        reply = client.post("/api/teaching", json={})
        a_problem(reply, 422, "at least one correction, found none")
        assert client.get("/api/teaching").json()["state"] == "none"
    assert not (run / TEACH).exists()


def test_one_lesson_at_a_time_which_ends_with_the_server(run: Path) -> None:
    correct(run, 2)
    with serving(run) as address, asking(address) as client:
        reply = client.post("/api/teaching", json={})
        assert reply.status_code == 202
        assert reply.json()["state"] == "teaching"
        a_problem(client.post("/api/teaching", json={}), 409, "wait until it has ended")
        assert processes_of(run)
    assert not processes_of(run)
    assert load_lesson(run) is None


def test_a_killed_server_leaves_no_lesson(run: Path) -> None:
    correct(run, 2)
    with started(run, "--port", "0") as (server, address), asking(address) as client:
        assert client.post("/api/teaching", json={}).status_code == 202
        wait_until(lambda: bool(processes_of(run)))
        server.send_signal(signal.SIGKILL)
        server.wait()
        wait_until(lambda: not processes_of(run))
    assert not (run / LESSON).exists()


def processes_of(run: Path) -> list[int]:
    """The running lessons of this folder."""
    return processes_with(str(run), "--reviewed")


def test_a_missing_extra_is_named(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "without" / "torch").mkdir(parents=True)
    (tmp_path / "without" / "torch" / "__init__.py").write_text(
        "raise ModuleNotFoundError('no torch', name='torch')"
    )
    paths = [str(tmp_path / "without"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    correct(run, 1)
    lessons = Lessons(run)
    lessons.start()
    status = ended(lessons)
    assert status.state == "failed"
    assert "expected the extra 'learn'" in status.said
    assert status.said.endswith("pip install 'simgan-captcha[learn]'")
    lessons.stop()


def test_a_lesson_that_cannot_be_taught_is_reported_and_another_follows(run: Path) -> None:
    """The corrections no longer fit, the folder is in use, or the process is killed."""
    correct(run, 1)
    (run / FILE).write_text(json.dumps({"texts": {"other.png": "ab"}}))
    lessons = Lessons(run)
    lessons.start()
    status = ended(lessons)
    assert status.state == "failed"
    assert status.said.startswith("expected labels of some of the run's 60 images")
    lessons.start()
    wait_until(lambda: bool(processes_of(run)))  # just started, it may not show its command yet
    for process in processes_of(run):
        os.kill(process, signal.SIGKILL)
    status = ended(lessons)
    assert status.state == "failed"
    assert f"see {run / OUTPUT}" in status.said
    lessons.stop()
    (run / FILE).unlink()
    shutil.rmtree(run / TEACH)
    (run / TEACH).write_text("a file where the folder should be")
    correct(run, 1)
    with serving(run) as address, asking(address) as client:
        reply: httpx.Response = client.post("/api/teaching", json={})
        a_problem(reply, 503, "expected to write")


def test_a_damaged_lesson_is_reported(run: Path) -> None:
    (run / TEACH).mkdir()
    (run / LESSON).write_text("{")
    status = Lessons(run).status()
    assert status.state == "failed"
    assert "teach the run again" in status.said


def test_the_server_loads_no_code_that_learns_from_labels(run: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from simgan_captcha.web.app import create_app; "
        f"create_app(Path({str(run)!r})); "
        "print([m for m in sys.modules if m.startswith('simgan_captcha.teaching') or m == 'torch'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
