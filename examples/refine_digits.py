"""Printed digits refined towards unlabelled handwritten ones: python refine_digits.py FOLDER"""

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

NAMES = ("DejaVuSans", "DejaVuSans-Oblique", "DejaVuSerif", "DejaVuSansMono")
FOLDER = Path(matplotlib.get_data_path()) / "fonts/ttf"
FONTS = [ImageFont.truetype(str(FOLDER / f"{name}.ttf"), 40) for name in NAMES]
SIZE, BATCH = RefinerSettings(features=16, blocks=2), 64
SETTINGS = SimGANSettings(
    refiner=SIZE, batch_size=BATCH, steps=600, regularization=1.0, consistency=1.0
)
DIGITS = load_digits()
REAL = torch.from_numpy(DIGITS.images[:, None]).float() / 8 - 1  # 0...16 to [-1, 1]


def print_digits(seed: int, number: int) -> tuple[Tensor, Tensor]:
    draws = np.random.default_rng([seed, number])
    labels, images = draws.integers(10, size=BATCH), np.zeros((BATCH, 1, 8, 8), np.float32)
    for image, label in zip(images, labels, strict=True):
        picture, font = Image.new("L", (64, 64)), FONTS[draws.integers(len(FONTS))]
        ImageDraw.Draw(picture).text((32, 32), str(label), 255, font, anchor="mm")
        picture = picture.rotate(draws.uniform(-10, 10), Image.Resampling.BILINEAR)
        width = int(draws.integers(4, 9))
        picture = picture.crop(picture.getbbox()).resize((width, 8), Image.Resampling.BOX)
        image[0, :, (8 - width) // 2 : (8 + width) // 2] = np.asarray(picture) / 127.5
    return torch.from_numpy(images - 1), torch.from_numpy(labels)


def train_classifier(seed: int, refine: nn.Module) -> nn.Module:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, stride=2))
    net.extend([nn.ReLU(), nn.Flatten(), nn.Linear(32 * 9, 10)])
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for number in range(100_000, 100_600):
        images, labels = print_digits(seed, number)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(refine(images).detach()), labels).backward()
        optimizer.step()
    return net.requires_grad_(False)


for seed in (1, 2, 3):
    plain = train_classifier(seed, nn.Identity())

    def printed(first: int, seed: int = seed) -> Iterator[Tensor]:
        return (print_digits(seed, n)[0] for n in range(first, 100_000))

    def handwritten(first: int, seed: int = seed) -> Iterator[Tensor]:
        draws = (np.random.default_rng([seed, n]) for n in range(first, 1_000_000))
        return (REAL[draw.choice(len(REAL), BATCH, replace=False)] for draw in draws)

    trained = train_refiner(
        synthetic=printed,
        real=handwritten,
        folder=Path(sys.argv[1]) / str(seed),
        fabric=Fabric(accelerator="cpu", devices=1),
        seed=seed,
        settings=SETTINGS,
        recogniser=plain,  # it guards the labels; it saw no handwritten digit
        on_step=lambda step, total, figures: None if step % 100 else print(step, total, figures),
        warn=print,
    )
    for name, net in (("printed", plain), ("refined", train_classifier(seed, trained.refiner))):
        right = float((net(REAL).argmax(1) == torch.from_numpy(DIGITS.target)).float().mean())
        print(f"seed {seed}, trained on {name} digits: {right:.1%} of {len(REAL)} handwritten ones")
