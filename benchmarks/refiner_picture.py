"""Draws what a refiner of `simgan_table.py` does, for README.

    python benchmarks/refiner_picture.py WORK --challenges ../shared/data/hackmit2017/challenges

Writes docs/refined.png: synthetic images of one font, the same images refined, their difference,
and real images, enlarged. The images are the first of a stream that no training saw.
"""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import bench_lab
import numpy as np
import numpy.typing as npt
import torch
from bench_lab import MEASURE, Lab, refined
from PIL import Image
from real_captchas import load_challenges
from simgan_table import FONTS

from simgan_captcha.config.settings import resolve_config
from simgan_captcha.data.background import estimate_background
from simgan_captcha.simgan import load_refiner
from simgan_captcha.simulator.simulator import Simulator

_ROWS = 5
_SCALE = 2
_GAP = 8


def main(arguments: Sequence[str] | None = None) -> None:
    parser = bench_lab.parser(__doc__)
    parser.add_argument("--arm", default="features of the reader")
    parser.add_argument("--fonts", choices=FONTS, default="one font")
    parser.add_argument("--picture", type=Path, default=Path("docs/refined.png"))
    options = parser.parse_args(arguments)
    seed = options.seeds[0]
    folder = options.work / options.fonts / str(seed) / options.arm / "refine"
    refiner = load_refiner(folder / "refiner.safetensors").eval()
    config = resolve_config("quick", [f"simulator.fonts={json.dumps(FONTS[options.fonts])}"])
    real = load_challenges(options.challenges, options.user, config.scheme)
    background = estimate_background(real.images, config.encoding, config.lines)
    simulator = Simulator(config.scheme, config.simulator, background)
    lab = Lab(config.scheme, background, simulator, real.images, seed)
    synthetic, _ = next(lab.synthetic(MEASURE, _ROWS))
    torch.manual_seed(seed)  # for the refiner's noise
    after = refined(synthetic, refiner)
    shown = torch.from_numpy(background.normalise(real.images[:_ROWS]))
    columns = [-synthetic, -after, synthetic - after, -shown]
    options.picture.write_bytes(sheet(torch.cat([c[:, :1] for c in columns], 1).numpy()))
    print(f"{options.picture}: {options.picture.stat().st_size:,} bytes")


def sheet(images: npt.NDArray[np.float32]) -> bytes:
    """A PNG of images (rows, columns, H, W) in [-1, 1], enlarged."""
    rows, columns, H, W = images.shape
    page = np.full(
        (rows * (H * _SCALE + _GAP) - _GAP, columns * (W * _SCALE + _GAP) - _GAP), 255, np.uint8
    )
    for row, column in np.ndindex(rows, columns):
        grey = ((images[row, column] + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
        large = Image.fromarray(grey).resize((W * _SCALE, H * _SCALE), Image.Resampling.BICUBIC)
        top, left = row * (H * _SCALE + _GAP), column * (W * _SCALE + _GAP)
        page[top : top + H * _SCALE, left : left + W * _SCALE] = large
    buffer = io.BytesIO()
    Image.fromarray(page).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
