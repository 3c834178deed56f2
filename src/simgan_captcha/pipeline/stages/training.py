"""The stages that train the refiner and the recognizer."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from simgan_captcha.calibration.bootstrap import posed_objective, without_pose
from simgan_captcha.data.background import Background
from simgan_captcha.generalist.network import features_of_ink, load_generalist
from simgan_captcha.generalist.shipped import shipped
from simgan_captcha.pipeline.cost import label_check_flops, recognizer_architecture
from simgan_captcha.pipeline.manifest import StageOutcome
from simgan_captcha.pipeline.run_data import RunData
from simgan_captcha.pipeline.run_folder import READER
from simgan_captcha.recognizer.adapt import adapt_recognizer
from simgan_captcha.recognizer.decode import save_recognizer
from simgan_captcha.recognizer.network import AttentionRecognizer, logits_of
from simgan_captcha.recognizer.train import (
    TrainedRecognizer,
    TrainingSession,
    character_objective,
    count_flops,
    seeded_dropout,
    train_recognizer,
)
from simgan_captcha.simgan import (
    Features,
    Recognizer,
    Refiner,
    count_forward_flops,
    load_refiner,
    train_refiner,
)
from simgan_captcha.types import GreyImages, OnStep

REFINER = "refiner.safetensors"

_WITNESS, _REFINE, _READ, _ADAPT = range(1, 5)
"""Random streams of synthetic images: no two trainings of a run see the same images."""


@torch.no_grad()
def label_agreement(recognizer: Recognizer, synthetic: Tensor, refined: Tensor) -> float:
    """The share of images (B, C, H, W) whose text is read the same after refining."""
    before, after = (recognizer(images).argmax(-1) for images in (synthetic, refined))
    return float((before == after).all(-1).float().mean())


def ink_recognizer(
    reader: nn.Module, background: Background, images: GreyImages, device: torch.device
) -> Recognizer:
    """Freeze a recognizer, and return it as a function from ink (B, 1, H, W) to logits (B, L, K).

    Args:
        reader: Recognizer of ink and line mask. It is moved to the device and keeps its mode.
        background: Background with the line mask.
        images: Any images of the scheme, (N, H, W).
        device: Device of the ink.
    """
    reader.requires_grad_(False).to(device)
    mask = torch.from_numpy(background.normalise(images[:1]))[:, 1:].to(device)

    def recognize(ink: Tensor) -> Tensor:
        return logits_of(reader(torch.cat([ink, mask.expand(len(ink), -1, -1, -1)], 1)))

    return recognize


def ink_features(
    reader: nn.Module, background: Background, images: GreyImages, device: torch.device
) -> Features:
    """Freeze a recognizer, and return its feature maps as a function of ink (B, 1, H, W).

    The arguments are those of `ink_recognizer`.
    """
    assert isinstance(reader, AttentionRecognizer)  # `RunConfig` requires it
    reader.requires_grad_(False).to(device)
    mask = torch.from_numpy(background.normalise(images[:1]))[:, 1:].to(device)
    return lambda ink: reader.feature_maps(torch.cat([ink, mask.expand(len(ink), -1, -1, -1)], 1))


def _features(data: RunData) -> Features | None:
    """The network for ``simgan.features``: the generalist, or the label checker without it."""
    if not data.config.simgan.features:
        return None
    device = data.fabric.device
    if not data.config.begins_pretrained:
        return ink_features(data.label_checker(), data.background(), data.images, device)
    network, _ = load_generalist(shipped("generalist.safetensors"))
    return features_of_ink(network.to(device))


def refine(data: RunData, folder: Path, advance: OnStep) -> StageOutcome:
    """Train the refiner. A frozen recognizer measures whether refining keeps the text."""
    settings, flops, images = data.config.simgan, 0, 0
    files: tuple[str, ...] = (REFINER,)
    if not data.config.calibrates:
        checker = _train_label_checker(data, folder / "label_check", advance)
        flops, images = checker.flops, checker.images
        files += (f"label_check/{READER}",)  # the training of the recognizer starts with it
    size = settings.batch_size

    def synthetic(first: int) -> Iterator[Tensor]:
        return (images[:, :1] for images, _ in data.synthetic(_REFINE, size, first))

    def real(first: int) -> Iterator[Tensor]:
        return (images[:, :1] for images in data.real(size, first))

    recognizer = ink_recognizer(
        data.label_checker(), data.background(), data.images, data.fabric.device
    )
    result = train_refiner(
        synthetic=synthetic,
        real=real,
        folder=folder,
        fabric=data.fabric,
        seed=data.seed,
        settings=settings,
        on_step=advance,
        warn=data.warn,
        label_agreement=partial(label_agreement, recognizer),
        recognizer=recognizer,
        features=_features(data),
    )
    if settings.consistency:
        flops += label_check_flops(data.config)
    return StageOutcome(
        files,
        {**result.figures, "warnings": list(result.alarms)},
        images=result.images + images,
        training_flops=result.flops + flops,
    )


def read(data: RunData, folder: Path, advance: OnStep) -> StageOutcome:
    """Train the recognizer on synthetic images, raw or refined."""
    config, settings = data.config, data.config.recognizer
    refiner: Refiner | None = None
    if config.refines:
        refiner = load_refiner(data.run / "refine" / REFINER)
        refiner.to(data.fabric.device)
    starts_trained = settings.kind == "attention" and (config.calibrates or config.refines)
    # Synthetic images have known letter positions; predicting them too makes training faster.
    posed = config.reads_poses
    result = train_recognizer(
        lambda first: _refined(
            data, refiner, data.synthetic(_READ, settings.batch_size, first, posed=posed), first
        ),
        recognizer_architecture(config, pose=posed),
        settings,
        TrainingSession(folder, data.fabric, data.seed, advance),
        initial=data.label_checker() if starts_trained else None,
        objective=posed_objective if posed else character_objective,
    )
    refining = (
        0 if refiner is None else result.images * count_forward_flops(refiner.settings, *data.size)
    )
    return _save_recognizer(data, folder, result, refining)


def adapt(data: RunData, folder: Path, advance: OnStep) -> StageOutcome:
    """Self-train the recognizer on the real images and raw synthetic ones."""
    settings = data.config.adaptation
    result = adapt_recognizer(
        data.recognizer("read"),
        recognizer_architecture(data.config),
        lambda first: data.real(settings.batch_size, first),
        lambda first: data.synthetic(_ADAPT, settings.synthetic_batch_size, first),
        settings,
        TrainingSession(folder, data.fabric, data.seed, advance),
        blank=data.config.scheme.blank,
    )
    return _save_recognizer(data, folder, result, 0)


def _refined(
    data: RunData, refiner: Refiner | None, batches: Iterator[tuple[Tensor, Tensor]], first: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Refine the ink of the batches from number ``first`` on, if there is a refiner."""
    for number, (normalised, ids) in enumerate(batches, first):
        if refiner is not None:
            seeded = seeded_dropout(data.seed, number, data.fabric.global_rank)
            with torch.no_grad(), data.fabric.autocast(), seeded:
                refined = refiner(normalised[:, :1].to(data.fabric.device)).float()
            normalised[:, :1] = refined.cpu()
        yield normalised, ids


def _train_label_checker(data: RunData, folder: Path, advance: OnStep) -> TrainedRecognizer:
    settings = data.config.brief_training(data.config.label_check_steps)
    architecture = recognizer_architecture(data.config)
    result = train_recognizer(
        lambda first: data.synthetic(_WITNESS, settings.batch_size, first),
        architecture,
        settings,
        TrainingSession(folder, data.fabric, data.seed, advance),
    )
    if data.fabric.is_global_zero:
        save_recognizer(folder / READER, result.reader, architecture)
    data.fabric.barrier()  # all processes read the file that the first one wrote
    return result


def _save_recognizer(
    data: RunData, folder: Path, result: TrainedRecognizer, extra_flops: int
) -> StageOutcome:
    architecture = recognizer_architecture(data.config)
    if data.fabric.is_global_zero:
        save_recognizer(folder / READER, without_pose(result.reader, architecture), architecture)
    multiply_adds = count_flops(architecture, 1, backward=False) / 2
    return StageOutcome(
        (READER,),
        {**result.figures, "reading_mmac": round(multiply_adds / 1e6, 1)},
        images=result.images,
        training_flops=result.flops + extra_flops,
    )
