"""Measurement of changes of a captcha that make it harder for a reader without labels.

Each measurement changes one feature of the images from the simulator of the run. The reader of the
run reads these images before and after fine-tuning on them. An attacker would fine-tune as well.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from simgan_captcha.config.settings import RunConfig
from simgan_captcha.data.background import Background
from simgan_captcha.data.foreground import decode_scheme_image
from simgan_captcha.evaluation.intervals import wilson_interval
from simgan_captcha.pipeline.cost import recognizer_architecture
from simgan_captcha.recognizer.decode import read_probabilities
from simgan_captcha.recognizer.train import TrainingSession, train_recognizer
from simgan_captcha.scheme import Scheme
from simgan_captcha.simulator.clutter import draw_clutter
from simgan_captcha.simulator.layout import on_waves
from simgan_captcha.simulator.simulator import DrawParameters, Simulator
from simgan_captcha.training.parallel import make_fabric
from simgan_captcha.training.streams import synthetic_batches
from simgan_captcha.types import GreyImages

_STREAM = 200  # each change adds its number; trainings of the run use lower numbers
_SHOWN = 6
"""Number of sample images of each change."""
_STEEPNESS, _WAVELENGTH = (0.3, 0.3), (0.7, 2.5)  # of waves; wavelengths in image heights

Generator = np.random.Generator
Change = Callable[[Simulator, DrawParameters, Generator], DrawParameters]


@dataclass(frozen=True)
class Measured:
    """Accuracy on drawn images with one change."""

    name: str
    what: str
    as_it_is: tuple[float, float, float]
    """Share of texts that the reader of the run reads correctly, in [0, 1], and its 95 %
    interval."""
    learned_on: tuple[float, float, float]
    """The same share and interval after fine-tuning on the change."""
    samples: GreyImages
    """Sample images (6, H, W) ``uint8``."""


def audit_run(
    config: RunConfig,
    simulator: Simulator,
    reader: nn.Module,
    folder: Path,
    *,
    seed: int,
    images: int,
    steps: int,
    on_step: Callable[[str, int, int], None] = lambda name, step, steps: None,
) -> tuple[list[Measured], int]:
    """Measure every change, and return the measurements and the FLOPs of fine-tuning.

    The first measurement is without a change. Changes without effect on these captchas are omitted.

    Args:
        config: Configuration of the run.
        simulator: Simulator of the run, calibrated if the run is.
        reader: Reader of the run.
        folder: Folder for temporary checkpoints.
        seed: Random seed of the images.
        images: Number of images drawn for each change.
        steps: Number of fine-tuning steps for each change.
        on_step: Called with the name of the change, the step and the number of steps.
    """
    measured, flops = list[Measured](), 0
    for number, (name, (what, change)) in enumerate(changes(simulator).items()):
        changed = ChangedSimulator(simulator, change)
        drawn, ids = changed.batch(np.random.default_rng([_STREAM, seed]), images)
        if measured and (drawn[:_SHOWN] == measured[0].samples).all():
            continue  # the change has no effect, for example on letters that are already upright
        learned = _learned_on(
            config,
            changed,
            reader,
            folder / f"change-{number}",
            seed=seed,
            stream=_STREAM + number,
            steps=steps,
            on_step=partial(on_step, name),
        )
        flops += learned[1]
        measured.append(
            Measured(
                name,
                what,
                _share(reader, simulator.background, drawn, ids),
                _share(learned[0], simulator.background, drawn, ids),
                drawn[:_SHOWN],
            )
        )
    return measured, flops


def texts_per_hour(
    reader: nn.Module, background: Background, scheme: Scheme, encoded: Sequence[bytes]
) -> float:
    """Number of texts that one core of this machine reads in an hour, including decoding.

    The measurement uses processor time, so that other work on the machine does not count.

    Args:
        reader: Reader of the run.
        background: Background of the run.
        scheme: Scheme of the run.
        encoded: Encoded images of the store, at least one.
    """

    def read(some: Sequence[bytes]) -> None:
        pixels = np.stack([decode_scheme_image(data, scheme) for data in some])
        read_probabilities(reader, background, pixels)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        read(encoded[:10])  # excludes the time for initialization
        began = time.process_time()
        read(encoded)
        seconds = time.process_time() - began
    finally:
        torch.set_num_threads(threads)
    return 3600 * len(encoded) / max(seconds, 1e-3)


class ChangedSimulator:
    """A simulator with one changed feature."""

    def __init__(self, simulator: Simulator, change: Change) -> None:
        self.simulator, self.change = simulator, change

    def batch(self, generator: Generator, count: int) -> tuple[GreyImages, npt.NDArray[np.int64]]:
        """Draw images (count, H, W) ``uint8`` and class ids (count, L)."""
        parameters = self.simulator.draw_parameters(generator, count)
        changed = self.change(self.simulator, parameters, generator)
        return self.simulator.render(changed), changed.ids


def changes(simulator: Simulator) -> dict[str, tuple[str, Change]]:
    """Descriptions and functions of all changes by name. The first changes nothing."""
    scheme, most = simulator.scheme, math.ceil(simulator.clutter.lines[1])
    found = simulator.calibration is not None
    more: dict[str, tuple[str, Change]] = {
        "lines": (f"up to {most} lines through the text, as strong as it", _more_lines)
    }
    if "lines" in scheme.clutter:
        words = f"up to {most} lines more, as strong as those that are there"
        more = {"more lines": (words, _more_lines)}
    if scheme.clutter:
        words = " and ".join(scheme.clutter) + " left out"
        more = {"without clutter": (words, _without_clutter), **more}
    if scheme.background == "shared":
        # Other backgrounds are encoded as ink on black. The strongest ink then has the same value
        # in every image, so a lower contrast would have no effect.
        more["fainter"] = ("letters at half their contrast", _fainter)
    return {
        "as it is": (
            "drawn as the run found it" if found else "drawn from the run's wide ranges",
            _unchanged,
        ),
        "upright": ("no letter is turned", _upright),
        "turned further": ("every letter up to 30 degrees further, either way", _turned),
        "waved": ("every text on a wave, tilted and bent by it", _waved),
        "closer": ("letters a quarter closer to each other", _closer),
        "many fonts": ("every letter in any of the simulator's fonts", _many_fonts),
        "sizes vary": ("every letter up to a third larger or smaller", _resized),
        "noise": ("grain of 25 grey levels over all", _noisy),
        "coarse JPEG": ("quality 15", _coarse),
        **more,
    }


def _unchanged(_: Simulator, drawn: DrawParameters, __: Generator) -> DrawParameters:
    return drawn


def _upright(simulator: Simulator, drawn: DrawParameters, _: Generator) -> DrawParameters:
    if simulator.calibration is None:
        return replace(drawn, rotation=np.zeros_like(drawn.rotation))
    # A calibrated glyph may itself be rotated. It is upright after the inverse rotation.
    return replace(drawn, rotation=simulator.calibration.offset[drawn.ids, 2])


def _turned(_: Simulator, drawn: DrawParameters, generator: Generator) -> DrawParameters:
    further = generator.uniform(-30, 30, drawn.rotation.shape).astype(np.float32)
    return replace(drawn, rotation=drawn.rotation + further)


def _waved(simulator: Simulator, drawn: DrawParameters, generator: Generator) -> DrawParameters:
    return on_waves(drawn, simulator.scheme.height, _STEEPNESS, _WAVELENGTH, generator)


def _closer(simulator: Simulator, drawn: DrawParameters, _: Generator) -> DrawParameters:
    present = drawn.ids != simulator.scheme.blank
    middle = np.nanmean(np.where(present, drawn.x, np.nan), 1, keepdims=True)
    closer = (middle + 0.75 * (drawn.x - middle)).astype(np.float32)
    return replace(drawn, x=np.where(present, closer, drawn.x))


def _many_fonts(
    simulator: Simulator, drawn: DrawParameters, generator: Generator
) -> DrawParameters:
    fonts = simulator.bank.shape[0]
    return replace(drawn, font=generator.integers(fonts, size=drawn.font.shape))


def _resized(_: Simulator, drawn: DrawParameters, generator: Generator) -> DrawParameters:
    scale = generator.uniform(0.67, 1.33, drawn.scale.shape).astype(np.float32)
    return replace(drawn, scale=drawn.scale * scale)


def _fainter(simulator: Simulator, drawn: DrawParameters, _: Generator) -> DrawParameters:
    ground = np.float32(np.median(simulator.background.grey))
    return replace(drawn, ink=((drawn.ink + ground) / 2).astype(np.float32))


def _noisy(_: Simulator, drawn: DrawParameters, __: Generator) -> DrawParameters:
    return replace(drawn, noise=np.full_like(drawn.noise, 25))


def _coarse(_: Simulator, drawn: DrawParameters, __: Generator) -> DrawParameters:
    return replace(drawn, jpeg_quality=np.full_like(drawn.jpeg_quality, 15))


def _without_clutter(_: Simulator, drawn: DrawParameters, __: Generator) -> DrawParameters:
    return replace(drawn, clutter=None)


def _more_lines(
    simulator: Simulator, drawn: DrawParameters, generator: Generator
) -> DrawParameters:
    """Add lines over any existing clutter."""
    lines = draw_clutter(
        simulator.scheme.model_copy(update={"clutter": ("lines",)}),
        replace(simulator.clutter, line_strength=(1, 1)),
        generator,
        len(drawn.ids),
        ground=float(np.median(simulator.background.grey)),
        ink=float(np.median(drawn.ink)),
    )
    there = drawn.clutter
    return replace(drawn, clutter=lines if there is None else there.with_lines_of(lines))


def _share(
    reader: nn.Module, background: Background, images: GreyImages, ids: npt.NDArray[np.int64]
) -> tuple[float, float, float]:
    right = read_probabilities(reader, background, images).argmax(-1) == ids
    hits = int(right.all(1).sum())
    return hits / len(ids), *wilson_interval(hits, len(ids))


def _learned_on(
    config: RunConfig,
    simulator: ChangedSimulator,
    reader: nn.Module,
    folder: Path,
    *,
    seed: int,
    stream: int,
    steps: int,
    on_step: Callable[[int, int], None],
) -> tuple[nn.Module, int]:
    """Fine-tune the reader on images of a simulator; return it with the FLOPs of fine-tuning."""
    background, settings = simulator.simulator.background, config.brief_training(steps)
    fabric = make_fabric("32-true")

    def batches(first: int) -> Iterator[tuple[Tensor, Tensor]]:
        for images, ids in synthetic_batches(
            simulator,
            settings.batch_size,
            seed,
            stream=stream,
            first=first,
            workers=config.drawing_processes(fabric.device.type),
        ):
            yield torch.from_numpy(background.normalise(images)), ids

    result = train_recognizer(
        batches,
        recognizer_architecture(config),
        # A lower learning rate is enough for a change. The full one would first degrade the reader.
        settings.model_copy(update={"learning_rate": settings.learning_rate / 3}),
        TrainingSession(folder, fabric, seed, lambda step, total, _: on_step(step, total)),
        initial=reader,
    )
    return result.reader, result.flops
