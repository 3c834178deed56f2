"""The static page of examples/browser in a real Chromium, compared with the package."""

import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Page, expect

from simgan_captcha.data.background import Background
from simgan_captcha.data.foreground import pixels_of_scheme
from simgan_captcha.inference.reader import Reader
from simgan_captcha.inference.readings import Reading
from simgan_captcha.recognizer.export import export_reader
from simgan_captcha.recognizer.network import RecognizerArchitecture, build_recognizer
from simgan_captcha.scheme import Scheme
from simgan_captcha.types import GreyImages
from tests.small_run import SCHEME, shaded
from tests.web.conftest import keep_screenshot
from tests.web.serving import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "browser"
FETCHED = ROOT / "build" / "browser-example"
PLAIN = SCHEME.model_copy(update={"background": "plain"})


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The page with the runtime that the commands of its README fetch, on loopback."""
    shutil.copytree(EXAMPLE, FETCHED, dirs_exist_ok=True)
    (block,) = re.findall(r"^```\n(.+?)```", (EXAMPLE / "README.md").read_text(), re.M | re.DOTALL)
    for line in block.splitlines()[:2]:
        if (FETCHED / "onnxruntime-web" / "ort-wasm-simd-threaded.wasm").exists():
            break
        done = subprocess.run(line, shell=True, cwd=FETCHED, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(
                "no onnxruntime-web; run where npm reaches its registry, or follow "
                f"examples/browser/README.md by hand in {FETCHED}: {done.stderr[-200:]}"
            )
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(FETCHED))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def page(chromium: Browser, address: str) -> Iterator[Page]:
    """The page, which must load nothing from elsewhere and report no error."""
    page = chromium.new_page(viewport={"width": 400, "height": 700})
    page.set_default_timeout(1000 * PATIENCE_SECONDS)
    requested, errors = list[str](), list[str]()
    page.on("request", lambda request: requested.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    page.goto(address)
    yield page
    assert {url for url in requested if not url.startswith((address, "blob:", "data:"))} == set()
    assert errors == []
    page.close()


def exported(path: Path, scheme: Scheme, background: Background) -> Path:
    torch.manual_seed(3)
    size = (scheme.height, scheme.width, scheme.max_length, scheme.classes)
    network = build_recognizer(RecognizerArchitecture(*size, channels=(4, 4, 4, 4, 8))).eval()
    with torch.no_grad():
        for weights in network.parameters():
            weights.mul_(2)  # so that the images give different confidences
    images = np.random.default_rng(1).integers(0, 256, (2, *size[:2]), np.uint8)
    export_reader(path, network, background, scheme, images)
    return path


def drawn(seed: int, width: int, height: int) -> Image.Image:
    """A text in one colour on another, with dots, and noise."""
    random = np.random.default_rng(seed)
    ground, ink = random.integers(150, 256, 3), random.integers(0, 120, 3)
    image = Image.new("RGB", (width, height), tuple(map(int, ground)))
    draw = ImageDraw.Draw(image)
    draw.text((width // 5, 0), "1b", tuple(map(int, ink)), font_size=0.8 * height)
    for x, y in random.integers(0, [width, height], (5, 2)).tolist():
        draw.point((x, y), "black")
    noisy = np.asarray(image, np.int64) + random.integers(-5, 6, (height, width, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def pixels_in_the_page(page: Page, image: Image.Image, scheme: Scheme) -> GreyImages:
    data = np.asarray(image.convert("RGBA")).ravel().tolist()
    given = {"data": data, "width": image.width, "height": image.height}
    found = page.evaluate(
        "async ([image, scheme]) => { const { pixelsOf } = await import('./pixels.js');"
        "image.data = Uint8ClampedArray.from(image.data);"
        "return Array.from(pixelsOf(image, scheme)); }",
        [given, scheme.model_dump(mode="json")],
    )
    return np.array(found, np.uint8).reshape(scheme.height, scheme.width)


@pytest.mark.parametrize("scheme", [SCHEME, PLAIN], ids=["shared", "plain"])
def test_the_page_computes_the_same_pixels(page: Page, scheme: Scheme) -> None:
    for seed in range(5):
        image = drawn(seed, scheme.width, scheme.height)
        own = pixels_of_scheme(np.asarray(image), scheme)
        assert own.std() > 5
        np.testing.assert_array_equal(pixels_in_the_page(page, image, scheme), own)


@pytest.mark.parametrize("size", [(101, 37), (96, 48), (60, 60), (33, 17), (48, 20)])
def test_scaled_images_differ_by_few_levels(page: Page, size: tuple[int, int]) -> None:
    image = drawn(7, *size)
    own = pixels_of_scheme(np.asarray(image), PLAIN).astype(int)
    found = pixels_in_the_page(page, image, PLAIN).astype(int)
    assert np.abs(found - own).max() <= 3
    assert np.abs(found - own).mean() < 0.5


@pytest.mark.parametrize("scheme", [SCHEME, PLAIN], ids=["shared", "plain"])
def test_the_page_reads_as_the_package(page: Page, tmp_path: Path, scheme: Scheme) -> None:
    blank = np.zeros((scheme.height, scheme.width), np.uint8)
    background = shaded() if scheme is SCHEME else Background(blank, blank > 0, 200.0)
    file = exported(tmp_path / "reader.onnx", scheme, background)
    images = [tmp_path / f"{seed}.png" for seed in range(3)]
    for seed, path in enumerate(images):
        drawn(seed, scheme.width, scheme.height).save(path)
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(images[0].read_bytes()[:40])
    page.set_input_files("#reader", file)
    expect(page.locator("#state")).to_contain_text("The reader knows the characters abc1")
    page.set_input_files("#images", [*images, damaged])
    expect(page.locator("#state")).to_have_text("Read 4 images.")
    rows = page.locator("#readings tr")
    confidences = set[str]()
    for number, reading in enumerate(Reader(file).read(list(map(str, images)))):
        assert isinstance(reading, Reading)
        text, confidence = rows.nth(number).locator("td").all_inner_texts()[1:]
        confidences.add(confidence)
        assert text == reading.text
        assert float(confidence) == pytest.approx(reading.confidence, abs=1e-4)
    assert len(confidences) == 3
    expect(rows.nth(3)).to_contain_text("expected an image, this file cannot be decoded")
    keep_screenshot(page, f"browser-example-{scheme.background}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_the_page_says_why_a_file_is_no_reader(page: Page, tmp_path: Path) -> None:
    varying = PLAIN.model_copy(update={"background": "varying"})
    blank = np.zeros((SCHEME.height, SCHEME.width), np.uint8)
    file = exported(tmp_path / "varying.onnx", varying, Background(blank, blank > 0, 200.0))
    (tmp_path / "text.onnx").write_text("no reader at all")
    for path, reason in ((file, "its background is varying"), (tmp_path / "text.onnx", "")):
        page.set_input_files("#reader", path)
        expect(page.locator("#state")).to_contain_text("The reader cannot be used: ")
        expect(page.locator("#state")).to_contain_text(reason)
        expect(page.locator("#images")).to_be_disabled()
