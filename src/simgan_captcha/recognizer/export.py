"""Export of a run's recognizer as one ONNX file, from grey levels to class ids.

The file holds everything that reading needs, so a program only passes images.

Shapes: N images, H and W pixels, L characters.
"""

import json
import logging
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from torch import Tensor, nn

from simgan_captcha._version import FORMAT, __version__
from simgan_captcha.atomic import write_bytes
from simgan_captcha.data.background import ORIGINAL_THRESHOLD, Background, line_disc
from simgan_captcha.errors import RunError
from simgan_captcha.inference.exported import (
    CONFIDENCE,
    IDS,
    IMAGES,
    METADATA,
    PROBABILITIES,
    Recognize,
)
from simgan_captcha.inference.family import Family
from simgan_captcha.inference.reader import Reader
from simgan_captcha.recognizer.decode import recognizer
from simgan_captcha.scheme import Scheme
from simgan_captcha.types import GreyImages

MOST_CHANGED = 0.002
"""Greatest share of readings that an int8 recognizer may change; with more, it is refused."""

COMPARED = 3000
"""Number of real images in the comparison, enough to detect so few changes."""

_TOLERANCE = 1e-3
"""Greatest difference between the confidences of the two runtimes."""

_BATCH = 100


@dataclass(frozen=True)
class Parity:
    """Differences between an exported recognizer and the run's own, on the same real images."""

    images: int
    changed: int
    """Number of images with different texts."""
    confidence_error: float
    """Largest difference of the confidence of a character."""


def export_reader(
    path: Path,
    reader: nn.Module,
    background: Background,
    scheme: Scheme,
    images: GreyImages,
    *,
    int8: bool = False,
    taught: int = 0,
    family: Family | None = None,
) -> Parity:
    """Export a recognizer, and compare it with the one in torch on real images.

    Args:
        path: File to write, whole or not at all.
        reader: Recognizer, (N, 2, H, W) normalised -> logits (N, L, K).
        background: Background that normalises images.
        scheme: Scheme of the images; it becomes metadata.
        images: (N, H, W) ``uint8`` unlabelled real images for the comparison.
        int8: Whether weights and activations are quantised to 8 bits. The first half of the images
            then gives the ranges, and the second half is compared.
        taught: Number of labels that the recognizer was taught with; metadata, too.
        family: Look of the images that the recognizer learned from; metadata, too.

    Raises:
        RunError: Readings differ. In float32 no difference is allowed, in int8 the share
            `MOST_CHANGED`.
    """
    whole = WholeReader(reader, background).eval()
    model = _to_onnx(whole, images[:2])
    if int8:
        half = len(images) // 2
        model, images = _quantised(model, images[:half]), images[half:]
    described = {
        "format": FORMAT,
        "version": __version__,
        "scheme": scheme.model_dump(mode="json"),
        "precision": "int8" if int8 else "float32",
        "taught_labels": taught,
        "images": family.describe() if family else None,
    }
    onnx.helper.set_model_props(model, {METADATA: json.dumps(described)})
    with tempfile.TemporaryDirectory() as folder:
        tried = Path(folder) / "reader.onnx"
        tried.write_bytes(model.SerializeToString())
        parity = compare(recognizer(reader, background), Reader(tried).recognize, images)
    if parity.changed > (MOST_CHANGED * parity.images if int8 else 0):
        raise RunError(
            f"expected the {described['precision']} reader to read as the run's own does, "
            f"{parity.changed} of {parity.images} images read differently; "
            + ("export it without --int8" if int8 else "this is a fault of simgan-captcha: tell us")
        )
    if not int8 and parity.confidence_error > _TOLERANCE:
        raise RunError(
            f"expected confidences within {_TOLERANCE} of the run's own reader's, they are "
            f"{parity.confidence_error:.2g} apart; this is a fault of simgan-captcha: tell us"
        )
    write_bytes(path, model.SerializeToString())
    return parity


def compare(own: Recognize, exported: Recognize, images: GreyImages) -> Parity:
    """Compare two recognizers on the same images (N, H, W)."""
    changed, error = 0, 0.0
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        (ids, confidence), (other_ids, other) = own(batch), exported(batch)
        changed += int((ids != other_ids).any(-1).sum())
        error = max(error, float(np.abs(confidence - other).max()))
    return Parity(len(images), changed, error)


class WholeReader(nn.Module):
    """A recognizer with normalisation, from grey levels to class ids and probabilities.

    It maps images (N, H, W) ``uint8`` to ids (N, L) int64, their probabilities (N, L) float32, and
    those of all K classes (N, L, K) float32.
    """

    def __init__(self, reader: nn.Module, background: Background) -> None:
        super().__init__()
        self.reader = reader
        self.normalise = _Normalise(background)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        probabilities = self.reader(self.normalise(images)).softmax(-1)
        confidence, ids = probabilities.max(-1)
        return ids, confidence, probabilities


class _Normalise(nn.Module):
    """`Background.normalise` in operators of ONNX."""

    offset: Tensor
    gain: Tensor
    lines: Tensor

    def __init__(self, background: Background) -> None:
        super().__init__()
        offset, gain = background.offset_and_gain()
        self.register_buffer("offset", torch.from_numpy(offset))
        self.register_buffer("gain", torch.from_numpy(gain))
        lines = np.where(background.line_mask, 1.0, -1.0).astype(np.float32)
        self.register_buffer("lines", torch.from_numpy(lines))
        self.binary = background.encoding == "binary"
        self.disc = (
            line_disc(background.line_removal_width) if background.line_removal_width else None
        )
        self.sign = 1 if background.bright_ink else -1

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, H, W) ``uint8`` to normalised ones (N, 2, H, W)."""
        grey = images.float()
        if self.disc is not None:
            # A closing is the opening of the negative.
            grey = self.sign * _opened(self.sign * grey, self.disc)
        if self.binary:
            ink = torch.where(grey > ORIGINAL_THRESHOLD, 1.0, -1.0)
        else:
            ink = (grey * self.gain + self.offset).clamp(-1, 1)
        return torch.stack([ink, self.lines.expand_as(ink)], 1)


def _opened(grey: Tensor, disc: GreyImages) -> Tensor:
    """Morphological opening of (N, H, W) as in OpenCV: pixels outside the image do not count."""
    return _highest(-_highest(-grey, disc), disc)


def _highest(grey: Tensor, disc: GreyImages) -> Tensor:
    """Highest value of (N, H, W) within a symmetric disc around each pixel."""
    margin, (height, width) = len(disc) // 2, grey.shape[1:]
    padded = nn.functional.pad(grey, (margin,) * 4, value=-1000.0)
    found = grey
    for down, right in np.argwhere(disc).tolist():
        found = torch.maximum(found, padded[:, down : down + height, right : right + width])
    return found


def _to_onnx(whole: WholeReader, example: GreyImages) -> onnx.ModelProto:
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # from torch itself
        logger.setLevel(logging.ERROR)  # it logs every step
        try:
            program = torch.onnx.export(
                whole,
                (torch.from_numpy(example),),
                input_names=[IMAGES],
                output_names=[IDS, CONFIDENCE, PROBABILITIES],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                dynamo=True,
                verbose=False,
            )
        finally:
            logger.setLevel(before)
    assert program is not None  # returned, because no file is given
    return program.model_proto


class _Calibrating(CalibrationDataReader):  # type: ignore[misc]  # untyped
    """Batches of unlabelled images that give the ranges of activations."""

    def __init__(self, images: GreyImages) -> None:
        self.batches = (images[at : at + _BATCH] for at in range(0, len(images), _BATCH))

    def get_next(self) -> dict[str, GreyImages] | None:
        return next(({IMAGES: batch} for batch in self.batches), None)


def _quantised(model: onnx.ModelProto, images: GreyImages) -> onnx.ModelProto:
    """Quantise all convolutions except the first to 8 bits.

    The first one sees the image, where thin strokes differ by single levels. If it was quantised,
    more readings changed than allowed.
    """
    first = next(node.name for node in model.graph.node if node.op_type == "Conv")
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "int8.onnx"
        quantize_static(
            model,
            written,
            _Calibrating(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=[first],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(written)
