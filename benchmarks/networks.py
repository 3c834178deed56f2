"""Compares networks at equal training FLOPs, supervised and label-free.

    python benchmarks/networks.py --run RUN --tflop 10

Each network trains with the settings of the package's reader, in up to three ways. Each training
takes TFLOP teraflop.

- ``supervised``: on the true texts of 15,000 real captchas.
- ``label_free``: on the simulator as the run calibrated it.
- ``placed``: on the same images. Each position of the feature map also predicts which character
  has its middle there, as in the package's reader. The simulator knows the middles.

All networks are judged on the other 5,000 real captchas, without adaptation. Predicting the middles
costs about 2 %. This cost is counted only for the package's network, which uses them to read.
Writes benchmarks/results/networks.{json,md}.

Shapes: B batch, C channels, H and W pixels, L characters, K classes, T columns of a feature map.
"""

import argparse
import copy
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from real_captchas import (
    RealCaptchas,
    figures,
    labelled_stream,
    load_real,
    run_config,
    run_fabric,
    split,
)
from record import RESULTS, provenance, with_interval, write_result
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from simgan_captcha.atomic import write_json
from simgan_captcha.calibration.bootstrap import MIDDLES_WEIGHT, PosedSimulator, middles_loss
from simgan_captcha.data.background import Background
from simgan_captcha.original.network import OriginalRecognizer
from simgan_captcha.pipeline.run_folder import CALIBRATION, read_run
from simgan_captcha.recognizer.counting import Counting, counting_loss
from simgan_captcha.recognizer.decode import BATCH
from simgan_captcha.recognizer.network import (
    AttentionRecognizer,
    PosedOutput,
    RecognizerArchitecture,
)
from simgan_captcha.recognizer.settings import ATTENTION_HEADS, RecognizerSettings
from simgan_captcha.recognizer.train import (
    Objective,
    adamw,
    character_objective,
    learning_rate_at,
    take_step,
)
from simgan_captcha.scheme import Scheme
from simgan_captcha.simulator.calibrated import Calibration
from simgan_captcha.simulator.simulator import Simulator
from simgan_captcha.training.average import update_average
from simgan_captcha.training.streams import CaptchaSimulator, LabelledStream, synthetic_batches

PLACED = "placed"
_STREAM = 50  # the number of the synthetic stream; runs use other numbers


class CoarseAttentionRecognizer(AttentionRecognizer):
    """The package's first network. One more pooling reduces the map to an eighth of the image."""

    def __init__(self, architecture: RecognizerArchitecture) -> None:
        super().__init__(architecture)
        layers = list(self.features)
        self.features = nn.Sequential(*layers[:4], nn.MaxPool2d(2, ceil_mode=True), *layers[4:])
        channels, rows, columns = map_shape(self.features, architecture)
        self.position = nn.Parameter(torch.randn(rows * columns, channels) * 0.02)
        self.counting = Counting(channels, architecture.length, self.heads, rows, columns)


class MapReader(nn.Module, ABC):
    """A head on the attention reader's feature map."""

    def __init__(self, architecture: RecognizerArchitecture) -> None:
        super().__init__()
        self.features = AttentionRecognizer(architecture).features
        channels = architecture.channels[-1]
        self.middles = nn.Linear(channels, architecture.classes + 1) if architecture.pose else None

    def forward(self, images: Tensor) -> Any:
        """(B, 2, H, W) -> logits of `head`, and with ``pose`` also logits of the middles."""
        features = self.features(images)
        logits = self.head(features)
        if self.middles is None:
            return logits
        return logits, self.middles(features.flatten(2).transpose(1, 2))

    @abstractmethod
    def head(self, features: Tensor) -> Tensor:
        """Compute the logits from a feature map (B, C, rows, columns)."""


class FlattenedReader(MapReader):
    """The flattened feature map, and one linear layer."""

    def __init__(self, architecture: RecognizerArchitecture) -> None:
        super().__init__(architecture)
        channels, rows, columns = map_shape(self.features, architecture)
        self.shape = (architecture.length, architecture.classes)
        self.classify = nn.Linear(channels * rows * columns, self.shape[0] * self.shape[1])

    def head(self, features: Tensor) -> Tensor:
        """Compute logits (B, L, K)."""
        logits: Tensor = self.classify(features.flatten(1))
        return logits.view(len(features), *self.shape)


class ColumnReader(MapReader):
    """Each column of the map predicts a character or a blank (CTC), with its neighbours as context.

    Source: CRNN, arXiv:1507.05717. Deviation: a convolution over columns instead of the LSTM.
    """

    def __init__(self, architecture: RecognizerArchitecture) -> None:
        super().__init__(architecture)
        channels, rows, _ = map_shape(self.features, architecture)
        self.columns = nn.Sequential(
            nn.Conv1d(channels * rows, 128, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv1d(128, architecture.classes + 1, 3, padding=1),
        )

    def head(self, features: Tensor) -> Tensor:
        """Compute logits (B, T, K + 1). The last class is the blank."""
        logits: Tensor = self.columns(features.flatten(1, 2))
        return logits.transpose(1, 2)


class DecoderReader(MapReader):
    """One learned query for each slot, and two transformer decoder layers over the map.

    Source: the parallel decoder of PARSeq, arXiv:2207.06966, without its permutations.
    """

    def __init__(self, architecture: RecognizerArchitecture) -> None:
        super().__init__(architecture)
        channels, rows, columns = map_shape(self.features, architecture)
        self.position = nn.Parameter(torch.randn(rows * columns, channels) * 0.02)
        self.query = nn.Parameter(torch.randn(architecture.length, channels) * 0.02)
        layer = nn.TransformerDecoderLayer(
            channels, ATTENTION_HEADS, 2 * channels, dropout=0, batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, 2, nn.LayerNorm(channels))
        self.classify = nn.Linear(channels, architecture.classes)

    def head(self, features: Tensor) -> Tensor:
        """Compute logits (B, L, K)."""
        seen = features.flatten(2).transpose(1, 2) + self.position
        slots = self.decoder(self.query.expand(len(seen), -1, -1), seen)
        logits: Tensor = self.classify(slots)
        return logits


@torch.no_grad()
def map_shape(features: nn.Module, architecture: RecognizerArchitecture) -> tuple[int, int, int]:
    """The channels, rows and columns of a feature map."""
    features.eval()  # the empty image must not change the batch statistics
    channels, rows, columns = features(
        torch.zeros(1, 2, architecture.height, architecture.width)
    ).shape[1:]
    features.train()
    return channels, rows, columns


def column_objective(logits: Tensor, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """CTC loss per character, of logits (B, T, K + 1) and class ids (B, L)."""
    B, T, classes = logits.shape
    loss = nn.functional.ctc_loss(
        logits.float().log_softmax(-1).transpose(0, 1),
        ids,
        torch.full((B,), T),
        torch.full((B,), ids.shape[1]),
        blank=classes - 1,
    )
    return loss, {"loss": loss}


def with_middles(objective: Objective) -> Objective:
    """Add the loss of the middles to an objective, as the bootstrap recognizer does.

    If the network counts characters, its counting loss is added too.
    """

    def both(outputs: Any, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss, told = objective(outputs[0], targets[..., 0].long())
        if isinstance(outputs, PosedOutput):
            loss = loss + counting_loss(outputs.counts, targets[..., 4].long())
            return loss + MIDDLES_WEIGHT * middles_loss(outputs.middles, targets), told
        return loss + MIDDLES_WEIGHT * middles_loss(outputs[-1], targets), told

    return both


def likeliest(logits: Tensor) -> list[list[int]]:
    """The most probable class ids for logits (B, L, K)."""
    ids: list[list[int]] = logits.argmax(-1).tolist()
    return ids


def likeliest_path(logits: Tensor) -> list[list[int]]:
    """Class ids of any length for logits (B, T, K + 1): merges repeats and drops blanks."""
    blank = logits.shape[-1] - 1
    paths = [path.unique_consecutive() for path in logits.argmax(-1)]
    return [path[path != blank].tolist() for path in paths]


@dataclass(frozen=True)
class Network:
    """One entry of the comparison."""

    build: Callable[[RecognizerArchitecture], nn.Module]
    channels: tuple[int, int, int, int, int] = RecognizerSettings().channels
    objective: Objective = character_objective
    decode: Callable[[Tensor], list[list[int]]] = likeliest
    placed: bool = True
    """Whether the feature map is fine enough to predict the middles."""


NETWORKS = {
    "attention": Network(AttentionRecognizer),
    "attention-wide": Network(AttentionRecognizer, (32, 32, 64, 64, 64)),
    "attention-coarse": Network(CoarseAttentionRecognizer, (32, 32, 64, 128, 128), placed=False),
    "flattened": Network(FlattenedReader),
    "ctc": Network(ColumnReader, objective=column_objective, decode=likeliest_path),
    "decoder": Network(DecoderReader),
    "original": Network(
        lambda a: OriginalRecognizer(a.height, a.width, a.length, a.classes), placed=False
    ),
}


def main() -> None:
    began = provenance()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="a finished, calibrated run")
    parser.add_argument("--tflop", type=float, required=True, help="of each training")
    parser.add_argument("--seed", type=int, default=1, help="of the split and of the trainings")
    parser.add_argument("--train", type=int, default=15_000, help="images with their true texts")
    parser.add_argument("--test", type=int, default=5_000, help="other images, to judge on")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument(
        "--work",
        type=Path,
        help="folder for what is finished, which is not done again; RUN-networks if left out",
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    run, seed, flops = options.run, options.seed, options.tflop * 1e12
    work = options.work or run.with_name(f"{run.name}-networks")

    config, background = run_config(run), Background.load(run / "background" / "background.npz")
    scheme, settings, fabric = config.scheme, config.recognizer, run_fabric(run)
    train, test = split(load_real(run), options.train, options.test, seed)
    simulator = Simulator(
        scheme, config.simulator, background, Calibration.load(run / "calibrate" / CALIBRATION)
    )

    def simulated(drawn: CaptchaSimulator, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        batches = synthetic_batches(
            drawn,
            settings.batch_size,
            seed,
            stream=_STREAM,
            first=first,
            workers=config.drawing_processes(fabric.device.type),
        )
        return ((torch.from_numpy(background.normalise(images)), ids) for images, ids in batches)

    streams: dict[str, LabelledStream] = {
        "supervised": labelled_stream(train, background, scheme, settings.batch_size, seed),
        "label_free": partial(simulated, simulator),
        PLACED: partial(simulated, PosedSimulator(simulator)),
    }
    architecture = RecognizerArchitecture(
        scheme.height, scheme.width, scheme.max_length, len(scheme.alphabet)
    )
    results = {}
    for name in options.networks:
        network = NETWORKS[name]
        shape = replace(architecture, channels=network.channels)
        cost = measure_cost(network, shape, settings.batch_size)
        steps = max(1, round(flops / cost["step_flops"]))
        results[name] = {**cost, "steps": steps}
        for kind, stream in streams.items():
            if kind == PLACED and not network.placed:
                continue
            finished = work / f"{name}-{kind}-{options.tflop:g}-seed-{seed}.json"
            if not finished.exists():
                started = time.monotonic()
                told = replace(shape, pose=kind == PLACED)
                trained = train_network(network, told, stream, steps, settings, fabric, seed)
                seconds = time.monotonic() - started
                judged = judge_network(network, trained, background, scheme, test)
                write_json(finished, {**judged, "seconds": round(seconds, 1)})
            results[name][kind] = json.loads(finished.read_text())
            print(name, kind, f"{results[name][kind]['captcha_accuracy']:.2%}", flush=True)

    recorded = read_run(run)
    report = {
        **began,
        "seed": seed,
        "precision": str(fabric.strategy.precision.precision),
        "run": {key: recorded[key] for key in ("preset", "seed", "settings")},
        "training_flops_each": round(flops),
        "labels": options.train,
        "networks": results,
    }
    write_result(
        options.out,
        "networks",
        f"Networks trained for {options.tflop:g} TFLOP each, on {options.test:,} real captchas",
        report,
        ("network", "MMAC", "parameters", "steps", "supervised", "label-free", "and placed"),
        [
            (
                name,
                f"{one['mmac']:.1f}",
                f"{one['parameters']:,}",
                f"{one['steps']:,}",
                with_interval(one["supervised"]),
                with_interval(one["label_free"]),
                with_interval(one[PLACED]) if PLACED in one else "–",
            )
            for name, one in results.items()
        ],
    )


def measure_cost(
    network: Network, architecture: RecognizerArchitecture, batch_size: int
) -> dict[str, Any]:
    """Megamultiply-adds to read an image, parameters, and FLOPs of a training step."""
    with torch.device("meta"):
        model = network.build(architecture)
        image = torch.empty(1, 2, architecture.height, architecture.width)
    with FlopCounterMode(display=False) as reading:
        model(image)
    with FlopCounterMode(display=False) as step:
        model(image.expand(batch_size, -1, -1, -1)).sum().backward()
    return {
        "mmac": reading.get_total_flops() / 2e6,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "step_flops": step.get_total_flops(),
    }


def train_network(
    network: Network,
    architecture: RecognizerArchitecture,
    stream: LabelledStream,
    steps: int,
    settings: RecognizerSettings,
    fabric: Fabric,
    seed: int,
) -> nn.Module:
    """The averaged network, trained as `recognizer.train.train_recognizer` trains the package's."""
    torch.manual_seed(seed)
    model = network.build(architecture)
    average = copy.deepcopy(model).requires_grad_(False).eval().to(fabric.device)
    wrapped, optimizer = fabric.setup(
        model,
        adamw(model, settings),
    )
    wrapped.train()
    objective = with_middles(network.objective) if architecture.pose else network.objective
    for step, (images, ids) in zip(range(steps), stream(0), strict=False):
        loss, _ = objective(wrapped(images.to(fabric.device)), ids.to(fabric.device))
        rate = learning_rate_at(step, steps, settings.learning_rate)
        take_step(fabric, wrapped, optimizer, loss, rate, step + 1)
        update_average(average, model, settings.ema_decay, step + 1)
    return average.cpu()


@torch.inference_mode()
def judge_network(
    network: Network, model: nn.Module, background: Background, scheme: Scheme, test: RealCaptchas
) -> dict[str, Any]:
    texts = []
    for start in range(0, len(test.images), BATCH):
        normalised = torch.from_numpy(background.normalise(test.images[start : start + BATCH]))
        outputs = model(normalised)
        logits = outputs if isinstance(outputs, Tensor) else outputs[0]
        texts += [scheme.decode(ids) for ids in network.decode(logits)]
    judgement = test.judge(texts, scheme)
    return {**figures(judgement), "wrong_length": judgement.wrong_length}


if __name__ == "__main__":
    main()
