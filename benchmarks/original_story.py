"""Measures the system of 2017 from end to end, and then with one improvement at a time.

    python benchmarks/original_story.py WORK --challenges ../shared/data/hackmit2017/challenges

The first rows are the 2017 system: its generator, binarisation and masks, the refiner and the
discriminator of the paper, Algorithm 1 with both pre-trainings, and its classifier. The classifier
trains until it reads 97 % of its own synthetic images. It trains once on raw images and once on
refined ones. The 2017 code had faults that made measurements impossible. They are fixed here: an
empty image history, two different image ranges, a sum instead of a mean, and a ReLU on logits.

Each further row adds one change. The rotations are 30 degrees instead of 20, the letters may
overlap, the images are grey instead of binary, and the current recognizer replaces the classifier.
All rows are judged on 5,000 real captchas. The 2017 text claims about 55 % with raw images and 95 %
with refined ones.

``--size cpu`` trains smaller networks on smaller batches. Its refiner has 16 features and 2 blocks,
and its classifier a quarter of the features. ``--size full`` uses the sizes of the text and needs a
GPU.
Each row is written to benchmarks/results/original_story_SIZE.json as soon as it is finished, and is
not repeated. An interrupted training continues.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import bench_lab
import torch
from bench_lab import FRESH, READ, Lab, alone, keep_out_of_results
from real_captchas import RealCaptchas, figures, judge_reader, load_challenges, split
from record import Rows, over_seeds, provenance, write_table
from torch import nn

from simgan_captcha.config.settings import resolve_config
from simgan_captcha.data.background import Background, estimate_background
from simgan_captcha.original.classifier import ClassifierSettings, train_classifier
from simgan_captcha.original.network import OriginalRecognizer
from simgan_captcha.original.simulator import FONT, OriginalSimulator
from simgan_captcha.pipeline.manifest import Stopwatch
from simgan_captcha.recognizer.network import RecognizerArchitecture, build_recognizer
from simgan_captcha.scheme import HACKMIT_2017 as SCHEME
from simgan_captcha.simgan import (
    DiscriminatorSettings,
    RefinerSettings,
    SimGANSettings,
    count_forward_flops,
)
from simgan_captcha.simulator.settings import SimulatorSettings
from simgan_captcha.simulator.simulator import Simulator
from simgan_captcha.training.streams import CaptchaSimulator
from simgan_captcha.types import GreyImages


@dataclass(frozen=True)
class Step:
    """A version of the system between 2017 and today."""

    rotation: float = 20.0
    """The largest rotation in degrees."""
    apart: bool = True
    """Whether images with touching letters are drawn again."""
    grey: bool = False
    """Use grey images, normalised by the background, from today's simulator with one font."""
    network: Literal["2017", "today"] = "2017"


STEPS = {
    "2017": Step(),
    "turned by 30 degrees": Step(30.0),
    "letters may overlap": Step(30.0, apart=False),
    "grey images": Step(30.0, apart=False, grey=True),
    "today's reader": Step(30.0, apart=False, grey=True, network="today"),
}
IMAGES = ("raw", "refined")


@dataclass(frozen=True)
class Size:
    """The sizes of the trainings."""

    simgan: SimGANSettings
    features: int
    """The features of the 2017 classifier. The text has 128."""
    batch: int
    classifier: ClassifierSettings


def in_the_papers_form(
    features: int, blocks: int, widths: tuple[int, int, int, int], **others: Any
) -> SimGANSettings:
    """The settings of a refiner without a global skip, in another size than the text's."""
    return SimGANSettings(
        refiner=RefinerSettings(features=features, blocks=blocks, global_skip=False),
        discriminator=DiscriminatorSettings(widths=widths),
        **others,
    )


SIZES = {
    "full": Size(resolve_config("original").simgan, 128, 128, ClassifierSettings()),
    "cpu": Size(
        in_the_papers_form(
            16,
            2,
            (48, 32, 32, 32),
            steps=750,
            pretrain_refiner_steps=300,
            picture_every=150,
            checkpoint_every=50,
        ),
        32,
        32,
        ClassifierSettings(most_steps=12_000),
    ),
    "tiny": Size(
        in_the_papers_form(
            2,
            1,
            (2, 2, 2, 2),
            batch_size=4,
            steps=2,
            pretrain_refiner_steps=1,
            pretrain_discriminator_steps=1,
            history_capacity=8,
        ),
        4,
        4,
        ClassifierSettings(most_steps=2, examined=1),
    ),
}


def background_of(step: Step, images: GreyImages) -> Background:
    """Estimate the line mask and the encoding: the original's, or today's for grey images."""
    if step.grey:
        return estimate_background(images)
    return estimate_background(images, "binary", "average")


def simulator_of(step: Step, background: Background) -> CaptchaSimulator:
    """The generator of synthetic captchas, with a single font."""
    if step.grey:
        turn = (-step.rotation, step.rotation)
        return Simulator(SCHEME, SimulatorSettings(fonts=(FONT,), rotation=turn), background)
    return OriginalSimulator(SCHEME, background, rotation=step.rotation, apart=step.apart)


def network_of(step: Step, size: Size, seed: int) -> nn.Module:
    """An untrained reader network."""
    height, width, length, classes = SCHEME.height, SCHEME.width, SCHEME.max_length, SCHEME.classes
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if step.network == "today":
            return build_recognizer(RecognizerArchitecture(height, width, length, classes))
        return OriginalRecognizer(height, width, length, classes, size.features)


def run(
    name: str, images: str, size: Size, lab: Lab, folder: Path, test: RealCaptchas
) -> dict[str, Any]:
    """Train and judge one row: the refiner if there is one, then the classifier."""
    refiner, found, seconds, tflop, each = None, {}, 0.0, 0.0, 0.0
    if images == "refined":
        result, seconds = lab.refine(size.simgan, folder / "refine")
        refiner, tflop = result.refiner, result.flops / 1e12
        each = count_forward_flops(refiner.settings, SCHEME.height, SCHEME.width) / 1e12
        keys = ("change", "discriminator_accuracy", "adversarial_loss")
        found = {key: result.figures[key] for key in keys}
    network = network_of(STEPS[name], size, lab.seed).to(alone().device)
    stopwatch = Stopwatch(folder / images)

    def on_step(step: int) -> None:
        stopwatch.tick()
        if step % 250 == 0:
            print(f"{name}, {images}: step {step}, {stopwatch.seconds():.0f} s", flush=True)

    trained = train_classifier(
        network,
        lambda first: lab.synthetic(READ, size.batch, first, refiner),
        lambda first: lab.synthetic(FRESH, size.batch, first, refiner),
        size.classifier,
        folder / images,
        on_step,
    )
    judged = figures(judge_reader(network.cpu(), lab.background, SCHEME, test))
    return {
        **found,
        **judged,
        "synthetic_accuracy": trained.synthetic_accuracy,
        "steps": trained.steps,
        "seconds": seconds + stopwatch.seconds(),
        "tflop": tflop + trained.flops / 1e12 + each * trained.steps * size.batch,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    began = provenance()
    parser = bench_lab.parser(__doc__)
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--images", nargs="+", choices=IMAGES, default=list(IMAGES))
    parser.add_argument("--size", choices=SIZES, default="cpu")
    parser.add_argument("--tiny", dest="size", action="store_const", const="tiny")
    options = parser.parse_args(arguments)
    if options.size == "tiny":
        keep_out_of_results(options.out)
    if options.size == "full" and not torch.cuda.is_available():
        sys.exit("expected a GPU for --size full, found none; use --size cpu")
    torch.set_num_threads(options.threads)
    size = SIZES[options.size]
    path = options.out / f"original_story_{options.size}.json"
    sizes = {
        "simgan": size.simgan.model_dump(mode="json"),
        "classifier": size.classifier.model_dump(mode="json"),
        **{"features": size.features, "batch": size.batch, "test": options.test},
    }
    rows = Rows(path, ("step", "learned_from", "seed"), sizes)
    real = load_challenges(options.challenges, options.user, SCHEME)
    for seed in options.seeds:
        test = split(real, 0, options.test, seed)[1]
        for name in options.steps:
            background = background_of(STEPS[name], real.images)
            simulator = simulator_of(STEPS[name], background)
            lab = Lab(SCHEME, background, simulator, real.images, seed)
            for images in options.images:
                if not rows.has(name, images, seed):
                    folder = options.work / options.size / str(seed) / name
                    row = run(name, images, size, lab, folder, test)
                    rows.add({"step": name, "learned_from": images, "seed": seed, **row}, began)
                    table(rows, options.out, options.size)
    table(rows, options.out, options.size)


COLUMNS = (
    ("captcha_accuracy", "{:.1%}", 1.0, "whole captchas"),
    ("character_accuracy", "{:.1%}", 1.0, "characters"),
    ("synthetic_accuracy", "{:.1%}", 1.0, "of its own synthetic images"),
    ("steps", "{:.0f}", 1.0, "classifier's steps"),
    ("change", "{:.3f}", 1.0, "change of a pixel"),
    ("seconds", "{:.0f}", 60.0, "minutes"),
    ("tflop", "{:.1f}", 1.0, "TFLOP"),
)


def table(rows: Rows, out: Path, size: str) -> None:
    """Write the rows that exist so far."""
    lines = []
    for name in STEPS:
        for images in IMAGES:
            if made := rows.of(step=name, learned_from=images):
                cells = [
                    over_seeds([row[key] / scale for row in made if key in row], form)
                    for key, form, scale, _ in COLUMNS
                ]
                lines.append((name, images, str(len(made)), *cells))
    headers = ("system", "learned from", "seeds", *(title for *_, title in COLUMNS))
    title = "From 2017 to today, one mended thing at a time: real captchas, no label"
    write_table(out / f"original_story_{size}.md", title, headers, lines)


if __name__ == "__main__":
    main()
