"""Finds or installs a Chromium for the tests of the pages: ``python tests/web/browser.py``."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

_SYSTEM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_INSTALL_SECONDS = 600


def find_browser() -> Path | None:
    """The Chromium of Playwright, or that of the system; None if there is neither."""
    with sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
    if own.exists():
        return own
    found = next((path for name in _SYSTEM_NAMES if (path := shutil.which(name))), None)
    return None if found is None else Path(found)


def browser() -> Path:
    """A Chromium, which is installed if there is none.

    Raises:
        RuntimeError: There is none and it could not be installed; says what to do.
    """
    tried = []
    for command in _ways_to_install():
        if (found := find_browser()) is not None:
            return found
        print("installing a browser for the tests:", " ".join(command), file=sys.stderr)
        try:
            subprocess.run(
                command,
                check=True,
                timeout=_INSTALL_SECONDS,
                stdout=sys.stderr,
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            )
        except (OSError, subprocess.SubprocessError) as error:
            tried.append(str(error))
    if (found := find_browser()) is not None:
        return found
    raise RuntimeError(
        "the tests of the pages need a Chromium, and none was found or could be installed "
        f"({'; '.join(tried)}); run .venv/bin/playwright install --with-deps chromium, or as root "
        "apt-get install chromium, then make test again"
    )


def _ways_to_install() -> list[list[str]]:
    playwright = [sys.executable, "-m", "playwright", "install"]
    if os.geteuid() == 0 and shutil.which("apt-get"):
        # Only root can install the libraries that a browser needs.
        packages = ["chromium", "fonts-dejavu-core"]
        install = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
        return [["apt-get", "update"], install, [*playwright, "--with-deps", "chromium"]]
    return [[*playwright, "chromium"]]


if __name__ == "__main__":
    try:
        print(browser())
    except RuntimeError as error:
        sys.exit(f"error: {error}")
