"""The pages of the documentation site in a browser, on a desk and on a phone."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.test_site import PAGES
from tests.web.conftest import keep_screenshot


@pytest.mark.parametrize("width", [400, 1280])
def test_every_page_fits_its_width_and_shows_its_pictures(
    site: Path, chromium: Browser, width: int
) -> None:
    page = chromium.new_page(viewport={"width": width, "height": 900})
    for name in PAGES:
        html = "index.html" if name == "README.md" else name.replace(".md", ".html")
        html = html.replace("benchmarks/README.html", "benchmarks/index.html")
        page.goto((site / html).as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width, html
        assert page.locator("h1").count() == 1, html
        broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
        assert page.evaluate(broken) == [], html
        keep_screenshot(page, f"site-{html.replace('/', '-').removesuffix('.html')}-{width}")
    page.close()
