"""A finished run, the application on loopback, and pages in a real Chromium."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import httpx
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from simgan_captcha.data.store import CaptchaStore
from tests.small_run import draw_captchas, pipeline, write_challenges
from tests.web.browser import browser as find_or_install
from tests.web.serving import PATIENCE_SECONDS, asking, serving

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"

OpenPage = Callable[..., Page]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, which tests must not change."""
    folder = tmp_path_factory.mktemp("made")
    write_challenges(folder / "challenges", draw_captchas())
    pipeline(folder / "run", folder / "challenges")
    return folder / "run"


@pytest.fixture
def run(tmp_path: Path, made: Path) -> Path:
    """A copy of a finished run, which the test may change."""
    return shutil.copytree(made, tmp_path / "run")


@pytest.fixture(scope="session")
def captchas(made: Path) -> dict[str, bytes]:
    """Encoded captchas of the run by name."""
    stored = CaptchaStore(made / "store").in_content_order()
    return dict(zip(stored.names, stored.images, strict=True))


@pytest.fixture(scope="module")
def address(made: Path) -> Iterator[str]:
    """The address of the application that serves ``made``."""
    with serving(made) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[httpx.Client]:
    """A client of the application that serves ``made``."""
    with asking(address) as client:
        yield client


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A headless Chromium."""
    executable = find_or_install()
    expect.set_options(timeout=1000 * PATIENCE_SECONDS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable,
            args=["--disable-quic", "--disable-gpu"],
            timeout=1000 * PATIENCE_SECONDS,
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[OpenPage]:
    """Opens pages; the test fails if a page asks another server, or logs an error."""
    complaints: list[str] = []

    def heard(message: ConsoleMessage) -> None:
        # Some tests provoke a refusal, which the page reports in its own words.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            complaints.append(message.text)

    with ExitStack() as stack:

        def open_page(
            address: str, width: int = 1000, scheme: Literal["light", "dark"] = "light"
        ) -> Page:
            context = chromium.new_context(
                viewport={"width": width, "height": 800}, color_scheme=scheme
            )
            stack.callback(context.close)
            host = httpx.URL(address).netloc.decode()
            page = context.new_page()
            page.set_default_timeout(1000 * PATIENCE_SECONDS)
            page.on("console", heard)
            page.on("pageerror", lambda error: complaints.append(str(error)))

            def asked(url: str) -> None:
                if not url.startswith((f"http://{host}/", "data:", "blob:")):
                    complaints.append(f"asked another server: {url}")

            page.on("request", lambda request: asked(request.url))
            page.goto(address)
            return page

        yield open_page
    assert complaints == []


def keep_screenshot(page: Page, name: str) -> None:
    """Save a screenshot for people in ``build/screenshots``."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
