"""Data of the example: labelled printed digits, unlabelled handwritten ones, and a classifier."""

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits
from torch import Tensor, nn

BATCH = 64
NAMES = ("DejaVuSans", "DejaVuSans-Oblique", "DejaVuSerif", "DejaVuSansMono")
_FONTS = [
    ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/{name}.ttf", 40) for name in NAMES
]
_DIGITS = load_digits()
REAL = torch.from_numpy(_DIGITS.images[:, None]).float() / 8 - 1
"""Handwritten digits, (1797, 1, 8, 8), in [-1, 1]."""


def print_digits(seed: int, number: int) -> tuple[Tensor, Tensor]:
    """Batch ``number`` of printed digits: images (64, 1, 8, 8) in [-1, 1], and labels (64,)."""
    draws = np.random.default_rng([seed, number])
    labels, images = draws.integers(10, size=BATCH), np.zeros((BATCH, 1, 8, 8), np.float32)
    for image, label in zip(images, labels, strict=True):
        picture, font = Image.new("L", (64, 64)), _FONTS[draws.integers(len(_FONTS))]
        ImageDraw.Draw(picture).text((32, 32), str(label), 255, font, anchor="mm")
        picture = picture.rotate(draws.uniform(-10, 10), Image.Resampling.BILINEAR)
        width = int(draws.integers(4, 9))
        picture = picture.crop(picture.getbbox()).resize((width, 8), Image.Resampling.BOX)
        image[0, :, (8 - width) // 2 : (8 + width) // 2] = np.asarray(picture) / 127.5
    return torch.from_numpy(images - 1), torch.from_numpy(labels)


def train_classifier(seed: int, refine: nn.Module, steps: int = 600) -> nn.Module:
    """Train a classifier on refined printed digits: (B, 1, 8, 8) -> logits (B, 10)."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, stride=2))
    net.extend([nn.ReLU(), nn.Flatten(), nn.Linear(32 * 9, 10)])
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for number in range(100_000, 100_000 + steps):
        images, labels = print_digits(seed, number)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(refine(images).detach()), labels).backward()
        optimizer.step()
    return net.requires_grad_(False)


@torch.no_grad()
def accuracy(net: nn.Module) -> float:
    """The accuracy of a classifier on the handwritten digits. Their labels serve only for this."""
    return float((net(REAL).argmax(1) == torch.from_numpy(_DIGITS.target)).float().mean())
