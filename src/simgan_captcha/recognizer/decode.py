"""From images to text: greedy decoding with confidences.

Shapes: N images, L characters, K classes.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from simgan_captcha.data.background import Background
from simgan_captcha.errors import ConfigError, RunError
from simgan_captcha.inference.exported import Recognize
from simgan_captcha.inference.readings import Reading, to_readings
from simgan_captcha.recognizer.network import RecognizerArchitecture, build_recognizer
from simgan_captcha.scheme import Scheme
from simgan_captcha.training.checkpoint import load_weights, save_weights
from simgan_captcha.types import Floats, GreyImages, Ids, OnStep

BATCH = 250
"""Number of images that are normalised together."""

TOGETHER = 32
"""Number of images per forward pass. Feature maps of more do not fit into the cache of a core."""


def read_images(
    reader: nn.Module,
    background: Background,
    scheme: Scheme,
    names: Sequence[str],
    images: GreyImages,
) -> Iterator[Reading]:
    """Read images (N, H, W) ``uint8`` in order; ``names`` are only passed through.

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
    on_step: OnStep = lambda done, total, figures: None,
) -> Floats:
    """Probabilities (N, L, K) float32 of the characters in images (N, H, W) ``uint8``.

    Raises:
        ImageError: The images have another size than the background.
    """
    reader.eval()
    read = []
    for start in range(0, len(images), BATCH):
        normalised = torch.from_numpy(background.normalise(images[start : start + BATCH]))
        read.append(probabilities_of(reader, normalised))
        on_step(min(start + BATCH, len(images)), len(images), {})
    return np.asarray(torch.cat(read).numpy(), np.float32)


def probabilities_of(reader: nn.Module, normalised: Tensor) -> Tensor:
    """Probabilities (N, L, K) float32 of normalised images (N, 2, H, W), on the CPU."""
    parts = normalised.contiguous(memory_format=torch.channels_last).split(TOGETHER)
    return torch.cat([reader(part).float().softmax(-1) for part in parts])


def decode(scheme: Scheme, names: Sequence[str], probabilities: Floats) -> Iterator[Reading]:
    """The likeliest text of each image, with its probability and those of its characters."""
    return to_readings(scheme, names, probabilities.argmax(-1), probabilities.max(-1))


def recognizer(reader: nn.Module, background: Background) -> Recognize:
    """The recognition function of an `ImageReader`, in torch."""

    def recognize(images: GreyImages) -> tuple[Ids, Floats]:
        probabilities = read_probabilities(reader, background, images)
        return probabilities.argmax(-1), probabilities.max(-1)

    return recognize


def save_recognizer(path: Path, reader: nn.Module, architecture: RecognizerArchitecture) -> None:
    """Write weights and architecture to one safetensors file."""
    save_weights(path, reader.state_dict(), {"architecture": architecture.describe()})


def load_recognizer(
    path: Path, expected: RecognizerArchitecture | None = None
) -> tuple[nn.Module, RecognizerArchitecture]:
    """Load a recognizer that `save_recognizer` wrote, in evaluation mode on the CPU.

    Sizes are checked first, so a false size never allocates more memory than the file takes.

    Args:
        path: The file.
        expected: The only accepted architecture; None accepts any.

    Raises:
        RunError: The file is missing, damaged, no recognizer, or of another architecture.
    """
    tensors, description = load_weights(path)
    try:
        architecture = RecognizerArchitecture.from_description(description["architecture"])
        if expected is not None and architecture != expected:
            raise RunError(
                f"expected the reader in {path.parent} to be of the run's scheme and settings, it "
                "is of others; run the run to its end"
            )
        _require_fitting(tensors, architecture)
        reader = build_recognizer(architecture)
        reader.load_state_dict(tensors)
    except (
        AttributeError,
        ConfigError,
        KeyError,
        OverflowError,
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:
        raise RunError(
            f"expected a reader's weights at {path}, they do not fit ({error}); "
            "delete its folder and run again"
        ) from None
    return reader.eval(), architecture


def _require_fitting(
    tensors: dict[str, torch.Tensor], architecture: RecognizerArchitecture
) -> None:
    """Check that weights fit an architecture, before it is built, and are finite.

    Raises:
        ValueError: They do not fit, or are not finite.
    """
    with torch.device("meta"):  # sizes without memory
        wanted = {name: t.shape for name, t in build_recognizer(architecture).state_dict().items()}
    if missing := sorted(wanted.keys() ^ tensors.keys()):
        raise ValueError(f"{missing[0]} and {len(missing) - 1} others are missing or too many")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name]:
            raise ValueError(
                f"{name} is {tuple(tensor.shape)}, by the header it is {tuple(wanted[name])}"
            )
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} holds values that are no numbers")
