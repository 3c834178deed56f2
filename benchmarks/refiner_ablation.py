"""What the refiner adds: to the original's crude simulator and to the calibrated one.

    python benchmarks/refiner_ablation.py WORK --challenges ../shared/data/hackmit2017/challenges

For each simulator and seed, readers are trained for as many steps on raw images, on images refined
in the paper's form, and on images refined with what came after it (`ARMS`); then all are adapted
to the real images. Judged on real captchas: whole captchas right after reading and after adapting.
Of the refiners: whether they keep the text, and how far refined images are from real ones, see
`measure_refiner`. Writes benchmarks/results/refiner_ablation.{json,md}.

Shapes: N images, F features.
"""

import argparse
import json
import shutil
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from real_captchas import (
    RealCaptchas,
    figures,
    finish_run,
    judge_stage,
    load_real,
    rename,
    run_config,
    split,
)
from record import RESULTS, manifests, provenance, training_flops, write_result
from torch import Tensor, nn

from simgan_captcha.atomic import write_json
from simgan_captcha.config.settings import RunConfig
from simgan_captcha.data.background import Background
from simgan_captcha.original.simulator import OriginalSimulator
from simgan_captcha.pipeline.run_folder import CALIBRATION, READER, read_run
from simgan_captcha.recognizer.decode import load_reader
from simgan_captcha.simgan import REAL, REFINED, Discriminator, load_refiner, local_adversarial_loss
from simgan_captcha.simulator.calibrated import Calibration
from simgan_captcha.simulator.simulator import Simulator

PRESET = "quick"
_STREAM = 60  # of synthetic images to measure with; a run's own have other numbers

# Shorter than the preset, and the same for both simulators: there are eighteen runs.
_STEPS = ("reader.steps=500", "adaptation.steps=150", "adaptation.longest=1")
SIMULATORS = {
    # Binary, one font, no JPEG: as the 2017 project drew, read by our net.
    "original": [
        "generator=original",
        "calibrate=false",
        "encoding=binary",
        "lines=average",
        "witness_steps=400",
        "simgan.regularization=1",
        "simgan.steps=300",
        *_STEPS,
    ],
    "calibrated": [*_STEPS],
}


@dataclass(frozen=True)
class Arm:
    """How the images are made that a reader learns from."""

    settings: tuple[str, ...]
    begins_as: str | None = None
    """The arm whose finished stages it shares, as far as their settings are the same."""


ARMS = {
    "raw": Arm(()),
    "refined": Arm(("reader.images=refined",), begins_as="raw"),
    "guarded": Arm(
        (
            "reader.images=refined",
            "simgan.consistency=1",
            "simgan.discriminator.spectral_norm=true",
        ),
        begins_as="raw",
    ),
}


def main() -> None:
    began = provenance()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="folder for the runs; finished stages are kept")
    parser.add_argument("--challenges", type=Path, required=True, help="folder of batch files")
    parser.add_argument("--user", default="rickyhan")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--simulators", nargs="+", choices=SIMULATORS, default=list(SIMULATORS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--test", type=int, default=5_000, help="images to judge on")
    parser.add_argument("--measured", type=int, default=2_000, help="images to measure refiners on")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    challenges = rename(options.challenges, options.work / "renamed")

    rows: list[dict[str, Any]] = []
    for simulator in options.simulators:
        for seed in options.seeds:
            for arm in options.arms:
                run = run_arm(options, challenges, simulator, seed, arm)
                real = load_real(run)
                _, test = split(real, 0, options.test, seed)
                rows.append(
                    {
                        "simulator": simulator,
                        "seed": seed,
                        "arm": arm,
                        **judge_arm(run, test),
                        **measure_arm(
                            run, folder(options.work, simulator, seed, "raw"), arm, options.measured
                        ),
                    }
                )
                print(rows[-1], flush=True)

    report = {
        **began,
        "preset": PRESET,
        "seed": ", ".join(map(str, options.seeds)),
        "precision": manifests(run)["read"]["precision"],
        "settings": {name: SIMULATORS[name] for name in options.simulators},
        "arms": {name: ARMS[name].settings for name in options.arms},
        "rows": rows,
    }
    write_result(
        options.out,
        "refiner_ablation",
        f"What the refiner adds, on {options.test:,} real captchas: mean of "
        f"{len(options.seeds)} seeds and half the width of its 95 % interval",
        report,
        (
            "simulator",
            "images",
            "reader",
            "+ adaptation",
            "texts kept by the refiner",
            "a fresh discriminator tells from real ones",
            "kernel distance to real ones",
            "refiner TFLOP",
            "TFLOP in all",
        ),
        [
            (
                simulator,
                arm,
                *(
                    over_seeds(
                        [r[key] for r in rows if (r["simulator"], r["arm"]) == (simulator, arm)],
                        form,
                    )
                    for key, form in COLUMNS
                ),
            )
            for simulator in options.simulators
            for arm in options.arms
        ],
    )


COLUMNS = (
    ("read", "{:.1%}"),
    ("adapt", "{:.1%}"),
    ("texts_kept", "{:.1%}"),
    ("told_from_real", "{:.1%}"),
    ("kernel_distance", "{:.3f}"),
    ("refiner_tflop", "{:.1f}"),
    ("training_tflop", "{:.1f}"),
)


def over_seeds(values: Sequence[float], form: str) -> str:
    """Mean and half the width of its 95 % interval (Student's t)."""
    mean = form.format(statistics.fmean(values))
    if len(values) < 2:
        return mean
    quantile = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}.get(len(values), 2.0)
    half = quantile * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean} ± {form.format(half)}"


def folder(work: Path, simulator: str, seed: int, arm: str) -> Path:
    """An arm's run."""
    return work / f"{simulator}-{arm}-{seed}"


def run_arm(
    options: argparse.Namespace, challenges: Path, simulator: str, seed: int, arm: str
) -> Path:
    """The finished run of an arm."""
    run, begins_as = folder(options.work, simulator, seed, arm), ARMS[arm].begins_as
    if begins_as and not run.exists():
        shutil.copytree(folder(options.work, simulator, seed, begins_as), run)
    settings = [*SIMULATORS[simulator], *ARMS[arm].settings, *options.settings]
    finish_run(run, challenges, user=options.user, seed=seed, preset=PRESET, settings=settings)
    return run


def judge_arm(run: Path, test: RealCaptchas) -> dict[str, Any]:
    """Whole captchas right after each stage, and what the training took."""
    stages = manifests(run)
    judged = {stage: figures(judge_stage(run, stage, test)) for stage in ("read", "adapt")}
    return {
        **{stage: of["captcha_accuracy"] for stage, of in judged.items()},
        "judged": judged,
        "refiner_tflop": stages["refine"]["training_flops"] / 1e12,
        "training_tflop": training_flops(run) / 1e12,
    }


def measure_arm(run: Path, raw_run: Path, arm: str, count: int) -> dict[str, Any]:
    """`measure_refiner` of an arm's images, kept in its run's folder."""
    # An arm begins as a copy of another one's folder: what was measured of that must not pass.
    finished = run / f"measured-{arm}-{count}.json"
    if not finished.exists():
        config, seed = run_config(run), read_run(run)["seed"]
        background = Background.load(run / "background" / "background.npz")
        synthetic = synthetic_images(run, config, background, count, seed)
        chosen, _ = split(load_real(run), count, 0, seed)
        normalised = torch.from_numpy(background.normalise(chosen.images))
        refined = synthetic
        if arm != "raw":
            refined = refine_all(run / "refine" / "refiner.safetensors", synthetic)
        recogniser = load_reader(raw_run / "read" / READER)[0]
        write_json(
            finished,
            measure_refiner(synthetic, refined, normalised, recogniser, config, seed),
        )
    measured: dict[str, Any] = json.loads(finished.read_text())
    return measured


def synthetic_images(
    run: Path, config: RunConfig, background: Background, count: int, seed: int
) -> Tensor:
    """(N, 2, H, W) as readers see them, drawn as the run's simulator does."""
    simulator: Simulator | OriginalSimulator
    if config.generator == "original":
        simulator = OriginalSimulator(config.scheme, config.original_simulator, background)
    else:
        calibration = (
            Calibration.load(run / "calibrate" / CALIBRATION) if config.calibrates else None
        )
        simulator = Simulator(config.scheme, config.simulator, background, calibration)
    images, _ = simulator.batch(np.random.default_rng([_STREAM, seed]), count)
    return torch.from_numpy(background.normalise(images))


@torch.inference_mode()
def refine_all(path: Path, images: Tensor) -> Tensor:
    refiner = load_refiner(path)
    ink = torch.cat([refiner(batch[:, :1]) for batch in images.split(100)])
    return torch.cat([ink, images[:, 1:]], 1)


def measure_refiner(
    synthetic: Tensor,
    refined: Tensor,
    real: Tensor,
    recogniser: nn.Module,
    config: RunConfig,
    seed: int,
) -> dict[str, Any]:
    """Whether refining keeps the text, and how far refined images are from real ones.

    ``texts_kept``: images that the reader trained on raw images reads as before refining.
    ``told_from_real``: images that a discriminator trained from nothing on three quarters of both
    tells right in the rest; half would be chance. ``kernel_distance``: squared, of the reader's
    features, as KID does (arXiv:1801.01401): unbiased, 0 where both are alike.

    Args:
        synthetic: (N, 2, H, W).
        refined: The same images refined, or the same again.
        real: (N, 2, H, W).
        recogniser: Trained on raw images.
        config: The run's.
        seed: Of the fresh discriminator.
    """
    before, after = features_and_ids(recogniser, synthetic), features_and_ids(recogniser, refined)
    of_real = features_and_ids(recogniser, real)
    return {
        "texts_kept": float((before[1] == after[1]).all(-1).float().mean()),
        "told_from_real": told_apart(refined[:, :1], real[:, :1], config, seed),
        "kernel_distance": kernel_distance(after[0], of_real[0]),
    }


@torch.inference_mode()
def features_and_ids(recogniser: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """What a reader's last layers are given, (N, F), and what it reads, (N, L)."""
    seen: list[Tensor] = []
    classify = recogniser.get_submodule("classify")
    hook = classify.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(1)))
    ids = torch.cat([recogniser(batch).argmax(-1) for batch in images.split(100)])
    hook.remove()
    return torch.cat(seen), ids


def told_apart(refined: Tensor, real: Tensor, config: RunConfig, seed: int) -> float:
    """How many images a discriminator trained from nothing tells right, (N, 1, H, W) each."""
    torch.manual_seed(seed)
    discriminator = Discriminator(
        config.simgan.discriminator.model_copy(update={"spectral_norm": False})
    )
    optimizer = torch.optim.Adam(discriminator.parameters(), 1e-3)
    learned = len(refined) * 3 // 4
    for batch in _batches(learned, seed):
        loss = sum(
            (
                local_adversarial_loss(discriminator(images[batch]), target)
                for images, target in _both(refined, real)
            ),
            torch.zeros(()),
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        right = [
            (discriminator(batch).mean((2, 3)).argmax(-1) == target).float()
            for images, target in _both(refined, real)
            for batch in images[learned:].split(100)
        ]
    return float(torch.cat(right).mean())


def _both(refined: Tensor, real: Tensor) -> list[tuple[Tensor, int]]:
    return [(refined, REFINED), (real, REAL)]


def _batches(count: int, seed: int, size: int = 32, steps: int = 300) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(count, (size,), generator=generator) for _ in range(steps))


def kernel_distance(one: Tensor, other: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy, cubic kernel; features (N, F), (M, F)."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a.double() @ b.double().T / a.shape[1] + 1) ** 3

    def within(a: Tensor) -> Tensor:
        k, n = kernel(a, a), len(a)
        return (k.sum() - k.diagonal().sum()) / (n * (n - 1))

    return float(within(one) + within(other) - 2 * kernel(one, other).mean())


if __name__ == "__main__":
    main()
