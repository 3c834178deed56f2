"""The stages that learn from the generalist.

The generalist specializes on the run's images, and a light recognizer learns the texts that it then
reads.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simgan_captcha.atomic import write_json
from simgan_captcha.config.settings import RunConfig
from simgan_captcha.data.foreground import decode_scheme_image
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
from simgan_captcha.pipeline.estimate import Estimate, estimate_from_agreement
from simgan_captcha.pipeline.graph import Advance
from simgan_captcha.pipeline.manifest import StageOutcome, require_manifest
from simgan_captcha.pipeline.run_data import RunData
from simgan_captcha.pipeline.run_folder import READER, STORE
from simgan_captcha.recognizer.decode import decode, read_probabilities, save_reader
from simgan_captcha.recognizer.distill import forgiving_objective, labelled_images
from simgan_captcha.recognizer.train import ReaderResult, count_flops, train_reader
from simgan_captcha.types import Floats, GreyImages, Ids

PSEUDO_LABELS = "pseudo_labels.json"
"""Texts of the specialized generalist, in the folder of its stage."""

_FIRST = 10
"""Images whose texts are shown before anything is learned."""
_SEEDS = 10_007
"""Difference of the seeds of two rounds."""


def specialize_generalist(data: RunData, folder: Path, advance: Advance) -> StageOutcome:
    """Self-train the generalist on some of the run's images, and read them with it."""
    settings, scheme = data.config.specialization, data.config.scheme
    names, encoded = _some(data.run / STORE, settings.images)
    network, _ = load_generalist(shipped("generalist.safetensors"))
    alphabet, lengths = Alphabet(scheme.alphabet), (scheme.shortest or scheme.length, scheme.length)
    bf16 = data.fabric.strategy.precision.precision == "bf16-mixed"
    first = prepare([open_picture(image).rgb for image in encoded[:_FIRST]])
    found = decode_all(read_columns(network, torch.from_numpy(first), bf16=bf16), alphabet, lengths)
    texts = (f"{one.text or 'nothing'} ({one.confidence:.0%})" for one in found)
    data.say(f"at once    the generalist reads {', '.join(texts)}; learning improves on this")
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
    columns = images.shape[-1]
    return StageOutcome(
        (PSEUDO_LABELS,),
        {
            "mean_confidence": round(float(np.mean([one.confidence for one in decoded])), 4),
        },
        images=len(names) + settings.steps * settings.batch_size,
        training_flops=count_specialization_flops(settings, columns, len(names)),
    )


def distill(data: RunData, folder: Path, advance: Advance) -> StageOutcome:
    """Train the recognizer on the texts of the specialized generalist; estimate its accuracy."""
    config, scheme = data.config, data.config.scheme
    settings = config.distillation
    labels = read_object(data.run / "specialize" / PSEUDO_LABELS)
    taught = _with_ids(labels, config)
    if len(taught) < 2:
        raise RunError(
            "expected texts of the alphabet and the length of the scheme, the generalist reads "
            "none; correct the scheme, or run with --set pretrained=false"
        )
    captchas = CaptchaStore(data.run / STORE).in_content_order()
    encoded = dict(zip(captchas.names, captchas.images, strict=True))
    images = np.stack([decode_scheme_image(encoded[name], scheme) for name in taught])
    ids = torch.tensor(list(taught.values()))
    flops = seen = 0
    steps = settings.steps_of(scheme.classes)
    for number in range(settings.rounds):

        def of_all(step: int, _: int, figures: dict[str, float], done: int = number) -> None:
            advance(done * steps + step, settings.rounds * steps, figures)

        result = _learn_texts(data, folder / f"round-{number + 1}", images, ids, number, of_all)
        flops, seen = flops + result.flops, seen + result.images
        read, learned = read_probabilities(result.reader, data.background(), images), ids.numpy()
        ids = torch.from_numpy(_balanced_ids(read, config))
    if data.fabric.is_global_zero:
        save_reader(folder / READER, result.reader, reader_architecture(config))
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
            **result.figures,
            **{name: round(value, 4) for name, value in figures.items()},
            "estimate": asdict(estimate),
            "enough": estimate.accuracy >= config.distillation.enough,
        },
        images=seen,
        training_flops=flops,
    )


def _balanced_ids(probabilities: Floats, config: RunConfig) -> Ids:
    """Class ids (N, L) of probabilities (N, L, K), without classes that are read too often."""
    characters = len(config.scheme.alphabet)
    read = probabilities.argmax(-1) < characters  # the other class is that of empty slots
    of_read = probabilities[read][:, :characters]
    if not len(of_read):
        return np.asarray(probabilities.argmax(-1))
    biases = balancing_biases(
        of_read / of_read.sum(1, keepdims=True),
        balanced_classes(config.scheme.alphabet),
        config.distillation.balance,
    )
    biased = probabilities.copy()
    biased[..., :characters] *= np.exp(biases)
    return np.asarray(biased.argmax(-1))


def _learn_texts(
    data: RunData, folder: Path, images: GreyImages, ids: Tensor, number: int, on_step: Advance
) -> ReaderResult:
    """Train a recognizer from random weights on images (N, H, W) with class ids (N, L)."""
    config, fabric = data.config, data.fabric
    settings = config.reader.model_copy(
        update={
            "steps": config.distillation.steps_of(config.scheme.classes),
            "batch_size": config.distillation.batch_size,
            "images": "raw",
        }
    )
    seed = data.seed + _SEEDS * number
    return train_reader(
        labelled_images(
            images,
            ids,
            data.background(),
            config.adaptation.augmentation,
            settings.batch_size,
            seed,
            rank=fabric.global_rank,
            processes=fabric.world_size,
        ),
        reader_architecture(config),
        settings,
        folder=folder,
        fabric=fabric,
        seed=seed,
        on_step=on_step,
        objective=forgiving_objective,
    )


def distilled_estimate(run: Path) -> Estimate:
    """The estimated accuracy of the distilled recognizer.

    Raises:
        RunError: The stage ``distill`` is not finished.
    """
    manifest = require_manifest(run / "distill")
    return Estimate(**manifest["result"]["estimate"])


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


def _some(store: Path, most: int) -> tuple[list[str], list[bytes]]:
    """Names and encoded images, evenly from all images in content order."""
    captchas = CaptchaStore(store).in_content_order()
    count = len(captchas.names)
    taken = np.unique(np.linspace(0, count - 1, min(most, count)).astype(int)).tolist()
    return [captchas.names[i] for i in taken], [captchas.images[i] for i in taken]


def _with_ids(labels: dict[str, Any], config: RunConfig) -> dict[str, list[int]]:
    """Class ids (L,) of the texts that fit the scheme, by the names of their images."""
    scheme = config.scheme
    fewest = scheme.shortest or scheme.length
    return {
        name: scheme.encode(text)
        for name, text in zip(labels["names"], labels["texts"], strict=True)
        if fewest <= len(text) <= scheme.length
    }
