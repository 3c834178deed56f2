"""Printed digits refined towards handwritten ones, unlabelled; a minute or two on one core.

python examples/refine_digits.py FOLDER      (seen with seed 1: 48.7 % raw, 51.9 % refined)"""

import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import torch
from lightning_fabric import Fabric
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits
from torch import Tensor, nn

from simgan_captcha.simgan import RefinerSettings, SimGANSettings, train_refiner

FONTS = [
    ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf" / f"{name}.ttf"), 40)
    for name in ("DejaVuSans", "DejaVuSans-Oblique", "DejaVuSerif", "DejaVuSansMono")
]
BATCH = 64


def print_digits(number: int) -> tuple[Tensor, Tensor]:
    draws = np.random.default_rng([1, number])
    labels, images = draws.integers(10, size=BATCH), np.zeros((BATCH, 1, 8, 8), np.float32)
    for image, label in zip(images, labels, strict=True):
        picture, font = Image.new("L", (64, 64)), FONTS[draws.integers(len(FONTS))]
        ImageDraw.Draw(picture).text((32, 32), str(label), 255, font, anchor="mm")
        picture = picture.rotate(draws.uniform(-10, 10), Image.Resampling.BILINEAR)
        width = int(draws.integers(4, 9))
        picture = picture.crop(picture.getbbox()).resize((width, 8), Image.Resampling.BOX)
        image[0, :, (8 - width) // 2 : (8 + width) // 2] = np.asarray(picture) / 127.5
    return torch.from_numpy(images - 1), torch.from_numpy(labels)


def accuracy(refine: nn.Module, real: Tensor, answers: Tensor) -> float:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, stride=2))
    net.extend([nn.ReLU(), nn.Flatten(), nn.Linear(32 * 9, 10)])
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for images, labels in map(print_digits, range(100_000, 100_600)):
        with torch.no_grad():
            images = refine(images)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    return float((net(real).argmax(1) == answers).float().mean())


digits = load_digits()
real = torch.from_numpy(digits.images[:, None]).float() / 8 - 1  # 0...16 to [-1, 1]


def printed_batches(first: int) -> Iterator[Tensor]:
    return (print_digits(n)[0] for n in range(first, 1_000_000))


def real_batches(first: int) -> Iterator[Tensor]:
    draws = (np.random.default_rng([2, n]) for n in range(first, 1_000_000))
    return (real[draw.choice(len(real), BATCH, replace=False)] for draw in draws)


size = RefinerSettings(features=16, blocks=2)
result = train_refiner(
    synthetic=printed_batches,
    real=real_batches,
    folder=Path(sys.argv[1]),
    fabric=Fabric(accelerator="cpu", devices=1),
    seed=1,
    settings=SimGANSettings(refiner=size, batch_size=BATCH, steps=600, regularization=20.0),
    on_step=lambda step, total, figures: None if step % 100 else print(step, total, figures),
    warn=print,
)
for name, refine in (("printed", nn.Identity()), ("refined", result.refiner)):
    right = accuracy(refine, real, torch.from_numpy(digits.target))
    print(f"trained on {name} digits: {right:.1%} of {len(real)} handwritten ones")
