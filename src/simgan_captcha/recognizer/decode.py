"""From images to text: greedy decoding with confidences.

Shapes: N images, L characters, K classes.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from simgan_captcha.data.background import Background
from simgan_captcha.errors import ConfigError, RunError
from simgan_captcha.inference.reader import Recognise
from simgan_captcha.inference.readings import Reading, to_readings
from simgan_captcha.recognizer.network import ReaderArchitecture, build_reader
from simgan_captcha.scheme import Scheme
from simgan_captcha.training.checkpoint import load_weights, save_weights
from simgan_captcha.types import Floats, GreyImages, Ids

BATCH = 250
"""Images read at once."""


def read_images(
    reader: nn.Module,
    background: Background,
    scheme: Scheme,
    names: Sequence[str],
    images: GreyImages,
) -> Iterator[Reading]:
    """Read (N, H, W) ``uint8`` images in order; ``names`` are passed through, never looked at.

    Raises:
        ImageError: The images have another size than the background.
    """
    for start in range(0, len(images), BATCH):
        probabilities = read_probabilities(reader, background, images[start : start + BATCH])
        yield from decode(scheme, names[start : start + BATCH], probabilities)


@torch.inference_mode()
def read_probabilities(
    reader: nn.Module,
    background: Background,
    images: GreyImages,
    on_step: Callable[[int, int, dict[str, float]], None] = lambda done, total, figures: None,
) -> Floats:
    """(N, L, K) float32 probabilities of what stands in (N, H, W) ``uint8`` images.

    Raises:
        ImageError: The images have another size than the background.
    """
    reader.eval()
    read = []
    for start in range(0, len(images), BATCH):
        normalised = torch.from_numpy(background.normalise(images[start : start + BATCH]))
        read.append(reader(normalised).float().softmax(-1))
        on_step(min(start + BATCH, len(images)), len(images), {})
    return np.asarray(torch.cat(read).numpy(), np.float32)


def decode(scheme: Scheme, names: Sequence[str], probabilities: Floats) -> Iterator[Reading]:
    """The likeliest text of each image, with its probability and those of its characters."""
    return to_readings(scheme, names, probabilities.argmax(-1), probabilities.max(-1))


def recogniser(reader: nn.Module, background: Background) -> Recognise:
    """What an `ImageReader` reads with, in torch."""

    def recognise(images: GreyImages) -> tuple[Ids, Floats]:
        probabilities = read_probabilities(reader, background, images)
        return probabilities.argmax(-1), probabilities.max(-1)

    return recognise


def save_reader(path: Path, reader: nn.Module, architecture: ReaderArchitecture) -> None:
    """Weights and architecture in one safetensors file."""
    save_weights(path, reader.state_dict(), {"architecture": architecture.describe()})


def load_reader(path: Path) -> tuple[nn.Module, ReaderArchitecture]:
    """What `save_reader` wrote, in evaluation mode on the CPU.

    Raises:
        RunError: Missing, damaged, or not a reader.
    """
    tensors, description = load_weights(path)
    try:
        architecture = ReaderArchitecture.from_description(description["architecture"])
        reader = build_reader(architecture)
        reader.load_state_dict(tensors)
    except (ConfigError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RunError(
            f"expected a reader's weights at {path}, they do not fit ({error}); "
            "delete its folder and run again"
        ) from None
    return reader.eval(), architecture
