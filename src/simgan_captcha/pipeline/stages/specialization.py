"""The stages that learn from the generalist.

The generalist specializes on the run's images, and a light recognizer learns the texts that it then
reads.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from simgan_captcha.atomic import write_json
from simgan_captcha.config.settings import RunConfig
from simgan_captcha.data.images import evenly
from simgan_captcha.data.pictures import open_picture
from simgan_captcha.data.store import CaptchaStore
from simgan_captcha.documents import read_object
from simgan_captcha.errors import RunError
from simgan_captcha.generalist.decoding import Alphabet
from simgan_captcha.generalist.features import HEIGHT
from simgan_captcha.generalist.network import load_generalist
from simgan_captcha.generalist.shipped import shipped
from simgan_captcha.generalist.specialization.class_balance import (
    balanced_classes,
    balancing_biases,
)
from simgan_captcha.generalist.specialization.specialize import (
    count_specialization_flops,
    decode_all,
    prepare,
    read_columns,
    specialize,
)
from simgan_captcha.pipeline.cost import reader_architecture
from simgan_captcha.pipeline.estimate import estimate_from_agreement
from simgan_captcha.pipeline.graph import Advance
from simgan_captcha.pipeline.manifest import StageOutcome
from simgan_captcha.pipeline.run_data import RunData
from simgan_captcha.pipeline.run_folder import READER, STORE
from simgan_captcha.recognizer.decode import decode, read_probabilities, save_reader
from simgan_captcha.recognizer.distill import forgiving_objective, labelled_images
from simgan_captcha.recognizer.train import ReaderResult, count_flops, train_reader
from simgan_captcha.training.parallel import fabric_precision
from simgan_captcha.types import Floats, GreyImages, Ids

PSEUDO_LABELS = "pseudo_labels.json"
"""Texts of the specialized generalist, in the folder of its stage."""

_FIRST = 10
"""Images whose texts are shown before anything is learned."""
_BALANCE = 1.0
"""Strength of the biases against characters that are read too often, between two rounds."""
_SEEDS = 10_007
"""Difference of the seeds of two rounds."""


def specialize_generalist(data: RunData, folder: Path, advance: Advance) -> StageOutcome:
    """Self-train the generalist on some of the run's images, and read them with it."""
    settings, scheme = data.config.specialization, data.config.scheme
    captchas = CaptchaStore(data.run / STORE).in_content_order()
    names = evenly(captchas.names, settings.images)
    encoded = evenly(captchas.images, settings.images)
    network, _ = load_generalist(shipped("generalist.safetensors"))
    alphabet, lengths = Alphabet(scheme.alphabet), (scheme.shortest or scheme.length, scheme.length)
    bf16 = fabric_precision(data.fabric) == "bf16-mixed"
    first = prepare([open_picture(image).rgb for image in encoded[:_FIRST]])
    found = decode_all(read_columns(network, torch.from_numpy(first), bf16=bf16), alphabet, lengths)
    texts = (f"{one.text or 'nothing'} ({one.confidence:.0%})" for one in found)
    data.say(f"first      the generalist reads {', '.join(texts)}; learning improves on this")
    images = prepare([open_picture(image).rgb for image in encoded])
    specialized = specialize(
        network, images, alphabet, lengths, settings, seed=data.seed, bf16=bf16, on_step=advance
    )
    logits = read_columns(specialized, torch.from_numpy(images), bf16=bf16)
    decoded = decode_all(logits, alphabet, lengths)
    write_json(
        folder / PSEUDO_LABELS,
        {
            "names": names,
            "texts": [one.text for one in decoded],
            "confidences": [round(one.confidence, 4) for one in decoded],
        },
    )
    return StageOutcome(
        (PSEUDO_LABELS,),
        images=len(names) + settings.steps * settings.batch_size,
        training_flops=count_specialization_flops(settings, images.shape[-1], len(names)),
    )


def distill(data: RunData, folder: Path, advance: Advance) -> StageOutcome:
    """Train the recognizer on the texts of the specialized generalist; estimate its accuracy."""
    config, scheme = data.config, data.config.scheme
    labels = read_object(data.run / "specialize" / PSEUDO_LABELS)
    taught = _with_ids(labels, config)
    if len(taught) < 2:
        raise RunError(
            "expected texts of the alphabet and the length of the scheme, the generalist reads "
            "none; correct the scheme, or run with --set pretrained=false"
        )
    names, stored = data.captchas
    number_of = {name: number for number, name in enumerate(names)}
    images = stored[[number_of[name] for name in taught]]
    ids = np.array(list(taught.values()))
    results, learned, read = _learn_in_rounds(data, folder, images, ids, advance)
    if data.fabric.is_global_zero:
        save_reader(folder / READER, results[-1].reader, reader_architecture(config))
    readings = list(decode(scheme, list(taught), read))
    of_teacher = {
        name: (scheme.fold(text), confidence)
        for name, text, confidence in zip(
            labels["names"], labels["texts"], labels["confidences"], strict=True
        )
    }
    alike = [scheme.fold(one.text) == of_teacher[one.name][0] for one in readings]
    figures = {
        "taught": float(np.mean([of_teacher[one.name][1] for one in readings])),
        "agreement": float(np.mean(alike)),
        "sure": float(np.mean([one.confidence for one in readings])),
        "stability": float((read.argmax(-1) == learned).all(1).mean()),
    }
    estimate = estimate_from_agreement(**figures)
    return StageOutcome(
        (READER,),
        {
            **results[-1].figures,
            **{name: round(value, 4) for name, value in figures.items()},
            "estimate": asdict(estimate),
        },
        images=sum(result.images for result in results),
        training_flops=sum(result.flops for result in results),
    )


def _learn_in_rounds(
    data: RunData, folder: Path, images: GreyImages, ids: Ids, advance: Advance
) -> tuple[list[ReaderResult], Ids, Floats]:
    """Train one recognizer after another; each but the first learns what the one before reads.

    Returns:
        The trainings; the class ids (N, L) that the last recognizer learned; the probabilities
        (N, L, K) that it reads.
    """
    results = list[ReaderResult]()
    while True:
        results.append(_learn_texts(data, folder, images, ids, len(results), advance))
        read = read_probabilities(results[-1].reader, data.background(), images)
        if len(results) == data.config.distillation.rounds:
            return results, ids, read
        ids = _balanced_ids(read, data.config.scheme.alphabet)


def _balanced_ids(probabilities: Floats, alphabet: str) -> Ids:
    """Class ids (N, L) of probabilities (N, L, K), without classes that are read too often."""
    characters = len(alphabet)
    read = probabilities.argmax(-1) < characters  # the other class is that of empty slots
    of_read = probabilities[read][:, :characters]
    if not len(of_read):
        return np.asarray(probabilities.argmax(-1))
    biases = balancing_biases(
        of_read / of_read.sum(1, keepdims=True),
        balanced_classes(alphabet),
        _BALANCE,
    )
    biased = probabilities.copy()
    biased[..., :characters] *= np.exp(biases)
    return np.asarray(biased.argmax(-1))


def _learn_texts(
    data: RunData, folder: Path, images: GreyImages, ids: Ids, number: int, advance: Advance
) -> ReaderResult:
    """One round: train a recognizer from random weights on images (N, H, W) with ids (N, L)."""
    config, fabric = data.config, data.fabric
    rounds, steps = config.distillation.rounds, config.distillation.steps_of(config.scheme.classes)
    changes = {"steps": steps, "batch_size": config.distillation.batch_size, "images": "raw"}
    settings = config.reader.model_copy(update=changes)
    seed = data.seed + _SEEDS * number
    return train_reader(
        labelled_images(
            images,
            torch.from_numpy(ids),
            data.background(),
            config.adaptation.augmentation,
            settings.batch_size,
            seed,
            rank=fabric.global_rank,
            processes=fabric.world_size,
        ),
        reader_architecture(config),
        settings,
        folder=folder / f"round-{number + 1}",
        fabric=fabric,
        seed=seed,
        on_step=lambda step, _, figures: advance(number * steps + step, rounds * steps, figures),
        objective=forgiving_objective,
    )


def specialization_flops(config: RunConfig, unsure: float = 0.0) -> int:
    """Floating-point operations of the specialization, if there are as many images as it takes."""
    scheme, settings = config.scheme, config.specialization
    columns = 4 * round(scheme.width * HEIGHT / scheme.height / 4)
    return count_specialization_flops(settings, columns, settings.images)


def distillation_flops(config: RunConfig, unsure: float = 0.0) -> int:
    """Floating-point operations of the distillation."""
    settings = config.distillation
    each = count_flops(reader_architecture(config), settings.batch_size, backward=True)
    return each * settings.steps_of(config.scheme.classes) * settings.rounds


def _with_ids(labels: dict[str, Any], config: RunConfig) -> dict[str, list[int]]:
    """Class ids (L,) of the texts that fit the scheme, by the names of their images."""
    scheme = config.scheme
    fewest = scheme.shortest or scheme.length
    return {
        name: scheme.encode(text)
        for name, text in zip(labels["names"], labels["texts"], strict=True)
        if fewest <= len(text) <= scheme.length
    }
