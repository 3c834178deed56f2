"""Specializes the generalist on the unlabelled images of one family, by self-training.

A teacher, the running average of the student, reads all images within alphabet and length. Biases
keep it from reading some characters far more often than others (`class_balance`). The student
learns these texts on augmented images, the surest first, with a loss that forgives wrong ones. The
teacher reads again every few dozen steps.

Sources: The mean teacher is that of arXiv:1703.01780. Self-training for text from easy to hard is
that of StrDA (arXiv:2410.09913). Distribution alignment follows ReMixMatch (arXiv:1911.09785), but
toward frequencies that are estimated. Generalized cross-entropy (arXiv:1805.07836) is that of a
character's mean probability under CTC.

Shapes: N images of 4 channels, 40 rows and W columns, T = W / 4 output columns, K classes.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from simgan_captcha.data.pictures import Pixels
from simgan_captcha.generalist.characters import encode
from simgan_captcha.generalist.decoding import Alphabet, Decoded, PossibleTexts, decode_columns
from simgan_captcha.generalist.features import HEIGHT, STRIDE, features, input_width
from simgan_captcha.generalist.network import Generalist, count_forward_flops
from simgan_captcha.generalist.specialization.class_balance import (
    balanced_classes,
    balancing_biases,
)
from simgan_captcha.generalist.specialization.settings import SpecializationSettings
from simgan_captcha.training.average import update_average
from simgan_captcha.training.known_texts import draw_numbers, known_of_batch
from simgan_captcha.training.losses import (
    FORGIVENESS,
    LEAST_FORGIVENESS,
    generalized_cross_entropy,
)
from simgan_captcha.types import Floats, OnStep

_READ_AT_ONCE = 128
_WEIGHT_DECAY = 0.01
_AVERAGE = 0.98
"""Decay of the teacher's weights a step."""
_FIRST_SHARE = 0.5
"""Least share of the images, the surest, that the first steps learn from."""
_SURE = 0.99
"""Confidence from which on the first steps learn from all images. If they learned from fewer, the
student would forget fonts that the generalist reads, but less surely than others."""
_ALL_AFTER = 0.6
"""Share of the steps after which all images are learned from."""
_LEARNING_RATE = 5e-4
"""Of AdamW, after a warm-up and before a cosine."""
_RELABEL_EVERY = 40
"""Steps between two readings of all images by the teacher."""
_BALANCE = 2.0
"""Strength of the biases against characters that are read too often."""


def common_width(sizes: Sequence[tuple[int, int]]) -> int:
    """Input columns for images of several (height, width): their median, a multiple of 8."""
    usual = float(np.median([input_width(height, width) for height, width in sizes]))
    return int(8 * math.ceil(usual / 8))


def prepare(images: Sequence[Pixels]) -> Floats:
    """(N, 4, 40, W) of RGB images (H, W, 3) of any size; W is their `common_width`."""
    width = common_width([(image.shape[0], image.shape[1]) for image in images])
    return np.stack([features(image, width) for image in images])


@torch.no_grad()
def read_columns(network: Generalist, images: Tensor, *, bf16: bool = False) -> Floats:
    """Logits (N, T, K) of prepared images, in evaluation mode."""
    network.eval()
    parts = []
    for start in range(0, len(images), _READ_AT_ONCE):
        batch = images[start : start + _READ_AT_ONCE].contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            parts.append(network(batch).logits.float().numpy())
    return np.concatenate(parts)


class GivenTexts(NamedTuple):
    """Texts of images that a specialization learns without reading them itself."""

    known: Mapping[int, str] = MappingProxyType({})
    """True texts by the number of their image. Only `simgan_captcha.teaching` has any."""
    readings: Sequence[tuple[str, float]] | None = None
    """Text and confidence of each image by another reader, to learn in place of the teacher's."""


_NOTHING = GivenTexts()


def specialize(
    network: Generalist,
    images: Floats,
    possible: PossibleTexts,
    settings: SpecializationSettings,
    *,
    seed: int = 1,
    given: GivenTexts = _NOTHING,
    bf16: bool = False,
    on_step: OnStep = lambda step, steps, figures: None,
) -> Generalist:
    """The teacher after self-training; the given network is not changed.

    Args:
        network: The generalist, or what an earlier specialization gave.
        images: (N, 4, 40, W) float32 from `prepare`, at least two.
        possible: What the texts may say.
        settings: See there.
        seed: Decides the order of images and their augmentation.
        given: Texts that the teacher does not read.
        bf16: Whether convolutions compute in bfloat16.
        on_step: Called after each step.
    """
    s, (known, readings) = settings, given
    numbers = torch.tensor(sorted(known), dtype=torch.long)
    forgiveness = torch.full((s.batch_size,), FORGIVENESS)
    forgiveness[s.batch_size - known_of_batch(len(known), s.batch_size) :] = LEAST_FORGIVENESS
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.from_numpy(images)
    student, teacher = copy.deepcopy(network), copy.deepcopy(network)
    for module in (student, teacher):
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(
        student.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY, fused=True
    )
    labels, first = _Labels([], torch.zeros(0, dtype=torch.long), 0.0), 1.0
    for step in range(s.steps):
        if step % _RELABEL_EVERY == 0 and (readings is None or step == 0):
            read = readings or _read(teacher, pixels, possible, bf16=bf16)
            labels = _Labels.of(read, known)
            first = labels.sure if step == 0 else first
        for group in optimizer.param_groups:
            group["lr"] = _LEARNING_RATE * _schedule(step, s.steps)
        share = learned_share(step, s.steps, first)
        surest = labels.by_confidence[: max(2, round(share * len(labels.by_confidence)))]
        if not len(surest):  # nothing was read at all
            break
        chosen = draw_numbers(surest, numbers, s.batch_size, generator)
        batch = augment(pixels[chosen], generator).contiguous(memory_format=torch.channels_last)
        student.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = student(batch).logits
        loss = forgiving_loss(logits, [labels.ids[i] for i in chosen.tolist()], forgiveness)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 2.0)
        optimizer.step()
        update_average(teacher, student, _AVERAGE, step + 1_000)  # the whole decay from the start
        on_step(step + 1, s.steps, {"loss": loss.item()})
    return teacher.eval()


def count_specialization_flops(
    settings: SpecializationSettings, columns: int, images: int, *, relabels: bool = True
) -> int:
    """Floating-point operations of a specialization and its readings.

    A multiply-add counts as two, and a training step as three forward passes.

    Args:
        settings: Steps and batches.
        columns: W, input columns of an image.
        images: N.
        relabels: Whether the teacher's own readings are learned, which it repeats.
    """
    readings = images * (2 + -(-settings.steps // _RELABEL_EVERY) if relabels else 1)
    trained = 3 * settings.steps * settings.batch_size
    return round(count_forward_flops(columns) * (readings + trained))


@dataclass(frozen=True)
class _Labels:
    """Texts to learn as class ids, and the images with a text, the surest first."""

    ids: list[Tensor]
    by_confidence: Tensor
    sure: float
    """Share of the images with a confidence of at least `_SURE`."""

    @staticmethod
    def of(readings: Sequence[tuple[str, float]], known: Mapping[int, str]) -> "_Labels":
        """Labels from the text and confidence of each image; known texts replace some."""
        certain = {number: (text, 1.0) for number, text in known.items()}
        learned = [certain.get(number, reading) for number, reading in enumerate(readings)]
        confidence = torch.tensor([sure if text else -1.0 for text, sure in learned])
        order = confidence.argsort(descending=True)
        return _Labels(
            [torch.tensor(encode(text), dtype=torch.long) for text, _ in learned],
            order[confidence[order] >= 0],
            float((confidence >= _SURE).float().mean()),
        )


def _read(
    teacher: Generalist, images: Tensor, possible: PossibleTexts, *, bf16: bool
) -> list[tuple[str, float]]:
    """Text and confidence of each image, with biases against too frequent characters."""
    logits = read_columns(teacher, images, bf16=bf16)
    alphabet = possible.alphabet
    decoded = decode_all(logits, possible)
    if any(d.text for d in decoded):
        biases = balancing_biases(
            _of_characters(logits, decoded, alphabet),
            balanced_classes(alphabet.characters),
            _BALANCE,
        )
        decoded = decode_all(logits, possible._replace(alphabet=alphabet.with_biases(biases)))
    return [(d.text, d.confidence) for d in decoded]


def _of_characters(logits: Floats, decoded: Sequence[Decoded], alphabet: Alphabet) -> Floats:
    """Probabilities (M, A) of all characters that were read, given that one is there."""
    found = [
        alphabet.probabilities(of_image[list(text.columns)])[:, 1:]
        for of_image, text in zip(logits, decoded, strict=True)
        if text.columns
    ]
    inside = np.concatenate(found)
    return np.asarray(inside / inside.sum(1, keepdims=True))


def decode_all(logits: Floats, possible: PossibleTexts) -> list[Decoded]:
    """Texts of logits (N, T, K)."""
    return [decode_columns(of_image, possible) for of_image in logits]


def forgiving_loss(logits: Tensor, ids: Sequence[Tensor], forgiveness: float | Tensor) -> Tensor:
    """Mean of (1 - p^q) / q, where p is the geometric mean probability of a text's characters.

    p = exp(-CTC / L) of logits (B, T, K) and texts of L class ids each; q in (0, 1], one for all or
    one for each text (B,).
    """
    B, T, _ = logits.shape
    lengths = torch.tensor([len(text) for text in ids])
    ctc = F.ctc_loss(
        logits.float().log_softmax(-1).transpose(0, 1),
        torch.cat(list(ids)),
        torch.full((B,), T),
        lengths,
        reduction="none",
        zero_infinity=True,
    )
    return generalized_cross_entropy(torch.exp(-ctc / lengths), forgiveness)


def learned_share(step: int, steps: int, sure: float) -> float:
    """Share of the images, the surest, that a step learns from.

    It rises in a straight line from the share of images of which the generalist is sure, or from
    one half if that is more, to 1.
    """
    first = max(_FIRST_SHARE, sure)
    return min(1.0, first + (1 - first) * step / max(1.0, _ALL_AFTER * steps))


def _schedule(step: int, steps: int) -> float:
    """Twenty steps of warm-up, then half a cosine to 2 %."""
    return min(1.0, (step + 1) / 20) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, 4, 40, W), slightly moved, scaled, rotated and with noise.

    They move by up to 1 column of the output and 2.4 rows. The scale changes by up to 8 %, and
    across by up to 6 % more. The rotation is up to 3 degrees. The Gaussian noise has a standard
    deviation of up to 0.08.
    """
    B, _, _, W = images.shape

    def uniform(most: float) -> Tensor:
        return most * (2 * torch.rand(B, generator=generator) - 1)

    scale, turn = 1 + uniform(0.08), uniform(0.06)
    matrices = torch.zeros(B, 2, 3)
    matrices[:, 0, 0] = (1 + uniform(0.06)) / scale
    matrices[:, 1, 1] = 1 / scale
    matrices[:, 0, 1] = turn * HEIGHT / W
    matrices[:, 1, 0] = -turn * W / HEIGHT * 0.3
    matrices[:, 0, 2] = uniform(2 * STRIDE / W)
    matrices[:, 1, 2] = uniform(0.12)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, align_corners=False, padding_mode="border")
    strength = 0.08 * torch.rand(B, 1, 1, 1, generator=generator)
    return moved + strength * torch.randn(moved.shape, generator=generator)
