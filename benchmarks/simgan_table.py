"""Compares readers that train on raw and on refined images, with equal training steps.

    python benchmarks/simgan_table.py WORK --challenges ../shared/data/hackmit2017/challenges

The simulator is crude on purpose: it has one or two fonts and is not calibrated. For each seed, one
reader trains on raw images. For each arm, a refiner trains, and then another reader trains on
refined images, for the same number of steps. Both readers are then adapted to the real images by
self-training. They are judged on 5,000 real captchas. The reader of raw images has seen no label of
a real image. It also serves the consistency loss and measures whether texts are kept. In two arms,
further discriminators see feature maps, of this reader or of the generalist, which has seen
synthetic images alone.

Each row is written to benchmarks/results/simgan_table.json as soon as it is finished, and is not
repeated. An interrupted training continues. The table can therefore take several sittings, with the
arms in any order: ``--arms raw paper flow --seeds 1``.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench_lab
import torch
from bench_lab import ADAPT, MEASURE, READ, Lab, alone, keep_out_of_results, refined, ticking
from real_captchas import RealCaptchas, figures, judge_reader, load_challenges, split
from record import Rows, over_seeds, provenance, write_table
from refiner_measures import STEPS, measure_refiner
from torch import nn

from simgan_captcha.config.settings import RunConfig, resolve_config
from simgan_captcha.data.background import estimate_background
from simgan_captcha.generalist.network import features_of_ink, load_generalist
from simgan_captcha.generalist.shipped import shipped
from simgan_captcha.pipeline.cost import recognizer_architecture
from simgan_captcha.pipeline.manifest import Stopwatch
from simgan_captcha.pipeline.stages.training import ink_features
from simgan_captcha.recognizer.adapt import adapt_recognizer
from simgan_captcha.recognizer.train import TrainedRecognizer, TrainingSession, train_recognizer
from simgan_captcha.simgan import Features, Refiner, SimGANSettings, count_forward_flops
from simgan_captcha.simulator.simulator import Simulator
from simgan_captcha.training.metrics import FILE_NAME

RAW = "raw"
FONTS = {
    "one font": ["dejavu-sans-bold"],
    "two fonts": ["dejavu-sans-bold", "roboto-black"],
}

# The size for a CPU: 16 features and 2 blocks, where the paper has 64 and 4. Full resolution.
_SIZE: dict[str, Any] = {"features": 16, "blocks": 2}
_BASE: dict[str, Any] = {
    "discriminator": {"widths": [48, 32, 32, 32]},
    "steps": 750,
    "picture_every": 150,
    "checkpoint_every": 50,
}
_GUARDED: dict[str, Any] = {
    "refiner": _SIZE,
    "consistency": 1.0,
    "regularization": 0.1,
    "refiner_learning_rate": 5e-4,
}
_HINGE: dict[str, Any] = {
    "adversarial": "hinge",
    "r1": 1.0,
    "refiner_learning_rate": 2e-4,
    "discriminator_learning_rate": 8e-4,
}
_FLOW: dict[str, Any] = {"refiner": {**_SIZE, "displacement": 3.0}}
_SCALES: dict[str, Any] = {
    "discriminator": {"widths": [48, 32, 32, 32], "scales": 2, "spectral_norm": True}
}
_NCE: dict[str, Any] = {"regularization": 0.0, "contrastive": 0.5}

_QUARTER: dict[str, Any] = {"features": 48, "blocks": 4, "downscale": 4, "noise": True}
_FEATURES: dict[str, Any] = {
    "refiner": _QUARTER,
    "features": 10.0,
    "adversarial": "hinge",
    "consistency": 3.0,
    "regularization": 0.3,
    "refiner_learning_rate": 1e-3,
    "discriminator_learning_rate": 1e-3,
    "refiner_updates": 1,
    "steps": 800,
}

ARMS: dict[str, dict[str, Any]] = {
    "paper": {
        "refiner": {**_SIZE, "global_skip": False},
        "pretrain_refiner_steps": 300,
        "regularization": 1.0,
    },
    "paper, full size": {
        "refiner": {"features": 64, "blocks": 4, "global_skip": False},
        "discriminator": {"widths": [96, 64, 32, 32]},
        "pretrain_refiner_steps": 300,
        "regularization": 1.0,
    },
    "L1 1, consistency": {**_GUARDED, "regularization": 1.0, "refiner_learning_rate": 2e-4},
    "L1 0.1, consistency": _GUARDED,
    "half resolution": {**_GUARDED, "refiner": {"features": 32, "blocks": 2, "downscale": 2}},
    "hinge, R1, two time scales": {**_GUARDED, **_HINGE},
    "two scales, spectral norm": {**_GUARDED, **_SCALES},
    "augmented discriminator": {
        **_GUARDED,
        "augmentations": ["brightness", "translation", "cutout"],
    },
    "flow": {**_GUARDED, **_FLOW},
    "contrastive": {**_GUARDED, **_NCE},
    "flow, hinge, R1, two scales": {**_GUARDED, **_HINGE, **_FLOW, **_SCALES},
    "flow, hinge, contrastive": {**_GUARDED, **_HINGE, **_FLOW, **_NCE},
    "quarter resolution": {**_GUARDED, "refiner": _QUARTER},
    "features of the reader": _FEATURES,
    "features of the generalist": _FEATURES,
}
"""The settings of `SimGANSettings` that each arm changes, in addition to `_BASE`."""

READER = ("recognizer.steps=2000", "adaptation.steps=600", "adaptation.max_steps_factor=1")
TINY_READER = (
    "recognizer.channels=[4, 4, 4, 4, 8]",
    "recognizer.batch_size=8",
    "recognizer.steps=2",
    "adaptation.batch_size=8",
    "adaptation.synthetic_batch_size=8",
    "adaptation.steps=2",
    "adaptation.max_steps_factor=1",
)
_TINY: dict[str, Any] = {
    "batch_size": 4,
    "steps": 2,
    "pretrain_discriminator_steps": 1,
    "history_capacity": 8,
}


@dataclass(frozen=True)
class Bench:
    """The trainings of one seed, and their sizes."""

    lab: Lab
    config: RunConfig
    test: RealCaptchas
    measured: int
    folder: Path
    tiny: bool

    def settings(self, arm: str) -> SimGANSettings:
        """The settings of an arm's refiner."""
        values = {**_BASE, **ARMS[arm], **(_TINY if self.tiny else {})}
        if self.tiny:
            values["pretrain_refiner_steps"] = min(1, values.get("pretrain_refiner_steps", 0))
        return SimGANSettings.model_validate(values)

    def read(self, arm: str, refiner: Refiner | None) -> tuple[TrainedRecognizer, float]:
        """Train a reader from random weights on an arm's images. Return it and the seconds."""
        folder, settings = self.folder / arm / "read", self.config.recognizer
        stopwatch = Stopwatch(folder)
        result = train_recognizer(
            lambda first: self.lab.synthetic(READ, settings.batch_size, first, refiner),
            recognizer_architecture(self.config),
            settings,
            TrainingSession(folder, alone(), self.lab.seed, ticking(stopwatch, f"{arm} reader")),
        )
        return result, stopwatch.seconds()

    def adapt(self, arm: str, reader: nn.Module) -> tuple[TrainedRecognizer, float]:
        """Adapt a reader to the real images by self-training. Return it and the seconds."""
        folder, settings = self.folder / arm / "adapt", self.config.adaptation
        stopwatch = Stopwatch(folder)
        result = adapt_recognizer(
            reader,
            recognizer_architecture(self.config),
            lambda first: self.lab.real(settings.batch_size, first),
            lambda first: self.lab.synthetic(ADAPT, settings.synthetic_batch_size, first),
            settings,
            TrainingSession(
                folder, alone(), self.lab.seed, ticking(stopwatch, f"{arm} adaptation")
            ),
        )
        return result, stopwatch.seconds()

    def judge(self, reader: nn.Module) -> dict[str, Any]:
        """Judge a reader on the real test captchas."""
        lab = self.lab
        return figures(judge_reader(reader, lab.background, lab.scheme, self.test))

    def row(self, arm: str) -> dict[str, Any]:
        """Train and judge an arm, and return its row of the table."""
        refiner, measured = None, {}
        seconds = tflop = 0.0
        if arm != RAW:
            witness = self.read(RAW, None)[0].reader
            settings = self.settings(arm)
            result, seconds = self.lab.refine(
                settings, self.folder / arm / "refine", witness, self.features(arm, witness)
            )
            refiner, tflop = result.refiner, result.flops / 1e12
            measured = self.measure(arm, refiner, witness)
            measured |= {"refiner_seconds": seconds, "refiner_tflop": tflop}
        read, of_reading = self.read(arm, refiner)
        if refiner is not None:
            each = count_forward_flops(refiner.settings, *self.lab.images.shape[1:])
            tflop += read.images * each / 1e12
        adapted, of_adapting = self.adapt(arm, read.reader)
        return {
            "read": self.judge(read.reader),
            "adapted": self.judge(adapted.reader),
            **measured,
            "seconds": seconds + of_reading + of_adapting,
            "tflop": tflop + (read.flops + adapted.flops) / 1e12,
        }

    def features(self, arm: str, witness: nn.Module) -> Features | None:
        """The fixed network that gives an arm's discriminators their feature maps, if any."""
        if arm == "features of the generalist":
            network, _ = load_generalist(shipped("generalist.safetensors"))
            return features_of_ink(network.to(alone().device))
        if arm == "features of the reader":
            lab, reader = self.lab, copy.deepcopy(witness).eval()
            return ink_features(reader, lab.background, lab.images, alone().device)
        return None

    def measure(self, arm: str, refiner: Refiner, witness: nn.Module) -> dict[str, Any]:
        """Measure whether refining keeps the texts, and how realistic the refined images are."""
        lab, count = self.lab, self.measured
        synthetic, _ = next(lab.synthetic(MEASURE, count))
        after = torch.cat([refined(each, refiner) for each in synthetic.split(100)])
        real = torch.from_numpy(lab.background.normalise(lab.images[:count]))
        steps, device = 2 if self.tiny else STEPS, alone().device
        found = measure_refiner(
            synthetic.to(device),
            after.to(device),
            real.to(device),
            copy.deepcopy(witness).to(device),
            lab.seed,
            steps,
        )
        lines = (self.folder / arm / "refine" / FILE_NAME).read_text().splitlines()[-100:]
        of_steps = [json.loads(line).get("discriminator_accuracy") for line in lines]
        judged = [accuracy for accuracy in of_steps if accuracy is not None]
        return {
            **found,
            "discriminator_accuracy": sum(judged) / len(judged),
            "change": float((after - synthetic)[:, :1].abs().mean()),
        }


def main(arguments: Sequence[str] | None = None) -> None:
    began = provenance()
    parser = bench_lab.parser(__doc__)
    parser.add_argument("--fonts", choices=FONTS, default="one font")
    parser.add_argument("--arms", nargs="+", choices=[RAW, *ARMS], default=[RAW, *ARMS])
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--measured", type=int, default=2_000, help="images to measure refiners on")
    parser.add_argument("--tiny", action="store_true", help="see that it works, in seconds")
    options = parser.parse_args(arguments)
    if options.tiny:
        keep_out_of_results(options.out)
    torch.set_num_threads(options.threads)
    path = options.out / "simgan_table.json"
    identity = {"test": options.test, "tiny": options.tiny, "settings": options.settings}
    rows = Rows(path, ("fonts", "seed", "arm"), identity)
    config = resolve_config(
        "quick",
        [
            f"simulator.fonts={json.dumps(FONTS[options.fonts])}",
            *(TINY_READER if options.tiny else READER),
            *options.settings,
        ],
    )
    real = load_challenges(options.challenges, options.user, config.scheme)
    background = estimate_background(real.images, config.encoding, config.lines)
    simulator = Simulator(config.scheme, config.simulator, background)
    for seed in options.seeds:
        lab = Lab(config.scheme, background, simulator, real.images, seed)
        test = split(real, 0, options.test, seed)[1]
        folder = options.work / options.fonts / str(seed)
        bench = Bench(lab, config, test, options.measured, folder, options.tiny)
        for arm in options.arms:
            if not rows.has(options.fonts, seed, arm):
                settings = None if arm == RAW else bench.settings(arm).model_dump(mode="json")
                row = {"fonts": options.fonts, "seed": seed, "arm": arm, "refiner": settings}
                rows.add({**row, **bench.row(arm)}, began)
                table(rows, options.out)
    table(rows, options.out)


def table(rows: Rows, out: Path) -> None:
    """Write the rows that exist so far."""
    headers = (
        *("simulator", "images", "seeds", "whole captchas", "over raw, points", "characters"),
        *("adapted", "over raw, points", "texts kept", "discriminator right"),
        *("fresh discriminator right", "change of a pixel", "minutes", "TFLOP"),
    )
    lines = []
    for fonts in FONTS:
        for arm in (RAW, *ARMS):
            if of_arm := rows.of(fonts=fonts, arm=arm):
                lines.append((fonts, arm, str(len(of_arm)), *cells(of_arm, rows.of(fonts=fonts))))
    title = "What refining is worth: real captchas read after raw and after refined images"
    write_table(out / "simgan_table.md", title, headers, lines)


def cells(of_arm: Sequence[dict[str, Any]], all_rows: Sequence[dict[str, Any]]) -> list[str]:
    """The cells of an arm: means over seeds, and half-widths of their 95 % intervals."""
    raw = {row["seed"]: row for row in all_rows if row["arm"] == RAW}

    def share(stage: str, of: str = "captcha_accuracy") -> str:
        return over_seeds([row[stage][of] for row in of_arm])

    def gain(stage: str) -> str:
        return over_seeds(
            [
                100 * (row[stage]["captcha_accuracy"] - raw[row["seed"]][stage]["captcha_accuracy"])
                for row in of_arm
                if row["seed"] in raw and row["arm"] != RAW
            ],
            "{:+.1f}",
        )

    def mean(key: str, form: str = "{:.1%}", scale: float = 1.0) -> str:
        return over_seeds([row[key] / scale for row in of_arm if key in row], form)

    return [
        *(share("read"), gain("read"), share("read", "character_accuracy")),
        *(share("adapted"), gain("adapted"), mean("texts_kept"), mean("discriminator_accuracy")),
        *(mean("told_from_real"), mean("change", "{:.3f}")),
        *(mean("seconds", "{:.0f}", 60), mean("tflop", "{:.1f}")),
    ]


if __name__ == "__main__":
    main()
