"""Measures the full-size refiner of the paper on a GPU, and the time to a good reader.

    python benchmarks/gpu.py WORK --challenges ../shared/data/hackmit2017/challenges

The script runs unattended, in less than ten minutes on a recent card by estimate. It makes four
measurements.

1. It multiplies matrices in bfloat16. This shows the highest rate of the card.
2. It trains preset ``cpu`` on the real captchas and judges the reader of each stage. This shows the
   seconds to 95 % and to 99 %.
3. It trains the refiner of preset ``paper``: 64 features, 4 blocks, full resolution, batches of
   512. This shows steps a second, TFLOP/s and memory.
4. It times training steps of the run's reader without the simulator, both as they are and through
   ``torch.compile`` with CUDA graphs. This shows whether compiling would pay.

Writes benchmarks/results/gpu.{json,md}, but only on a GPU. To try the script without a GPU, give
another --out, with ``--steps 3 --batch 4 --matrix 64`` and small ``--set`` values.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_lab import Lab
from main_table import row
from real_captchas import finish_run, load_real, rename, run_config, run_fabric
from record import RESULTS, manifests, provenance, write_result
from torch import Tensor

from simgan_captcha.calibration.bootstrap import PosedSimulator, posed_objective
from simgan_captcha.config.settings import resolve_config
from simgan_captcha.data.background import Background
from simgan_captcha.errors import UsageError
from simgan_captcha.pipeline.cost import recognizer_architecture
from simgan_captcha.recognizer.network import build_recognizer
from simgan_captcha.recognizer.train import MEMORY_FORMAT, in_memory_format, take_step
from simgan_captcha.simgan import SimGANSettings, train_refiner
from simgan_captcha.simulator.simulator import Simulator

_STREAM = 80  # the number of the synthetic stream; runs use other numbers
_PEAKS = {
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A10G": 70.0,
    "RTX 4090": 165.0,
}
"""Dense bfloat16 TFLOP/s from the data sheets. The first name that matches is used."""


def main() -> None:
    began = provenance()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="folder for the run; finished stages are kept")
    parser.add_argument("--challenges", type=Path, required=True, help="folder of batch files")
    parser.add_argument("--user", default="rickyhan")
    parser.add_argument("--preset", default="cpu", help="of the run that is timed")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--refiner-set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1000, help="of the refiner")
    parser.add_argument("--batch", type=int, default=512, help="of the refiner")
    parser.add_argument("--reader-batch", type=int, default=512, help="of the reader's steps")
    parser.add_argument("--matrix", type=int, default=8192, help="rows of the matrix product")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    gpu = torch.cuda.is_available()
    if not gpu and options.out == RESULTS:
        sys.exit("expected a GPU, found none; give another --out to try the script out on the CPU")

    name = torch.cuda.get_device_name() if gpu else "no GPU"
    product = matrix_product_rate(options.matrix, gpu)
    peak = next((tflops for card, tflops in _PEAKS.items() if card in name), None)
    print(f"{name}: matrix product {product:.1f} TFLOP/s, data sheet {peak}", flush=True)

    run = options.work / f"gpu-{options.preset}-{options.seed}"
    finish_run(
        run,
        rename(options.challenges, options.work / "renamed"),
        user=options.user,
        seed=options.seed,
        preset=options.preset,
        settings=options.settings,
    )
    judged = time_to_accuracy(run, options.seed)
    print(judged, flush=True)
    paper = resolve_config("paper", options.refiner_set).simgan.model_copy(
        update={
            "batch_size": options.batch,
            "steps": options.steps,
            # Minimal pre-training, so that the adversarial steps are measured.
            "pretrain_refiner_steps": 1,
            "pretrain_discriminator_steps": 1,
        }
    )
    refiner = time_refiner(run, paper, options.seed)
    steps = {
        how: time_reader(run, options.reader_batch, compiled=how == "compiled")
        for how in ("as it is", "compiled")
    }
    write_result(
        options.out,
        "gpu",
        f"{name}: the paper's refiner at {refiner['steps_per_second']:.2f} steps a second",
        {
            **began,
            "device": name,
            "seed": options.seed,
            "precision": manifests(run)["read"]["precision"],
            "matrix_product_tflops": product,
            "data_sheet_tflops": peak,
            "refiner": refiner,
            "reader_images_per_second": steps,
            "run": judged,
        },
        ("what", "figure"),
        [
            ("matrix product, bfloat16 (TFLOP/s)", f"{product:.1f}"),
            ("data sheet (TFLOP/s)", f"{peak:.0f}" if peak else "unknown card"),
            ("refiner: steps a second", f"{refiner['steps_per_second']:.2f}"),
            ("refiner: TFLOP/s", f"{refiner['tflops']:.2f}"),
            ("refiner: share of the matrix product", f"{refiner['tflops'] / product:.1%}"),
            ("refiner: memory at most (GB)", f"{refiner['peak_memory_bytes'] / 1e9:.1f}"),
            *((f"reader: images a second, {how}", f"{of:,.0f}") for how, of in steps.items()),
            ("run: whole captchas right", f"{judged['captcha_accuracy']:.2%}"),
            ("run: seconds to 95 %", _seconds(judged["seconds_to_95"])),
            ("run: seconds to 99 %", _seconds(judged["seconds_to_99"])),
        ],
    )


def _seconds(taken: float | None) -> str:
    return "not reached" if taken is None else f"{taken:.0f}"


def matrix_product_rate(rows: int, gpu: bool) -> float:
    """TFLOP/s of a square matrix product in bfloat16, the best of twenty."""
    left, right = (
        torch.randn(rows, rows, device="cuda" if gpu else "cpu", dtype=torch.bfloat16)
        for _ in range(2)
    )
    best = float("inf")
    for _ in range(20):
        started = time.perf_counter()
        left @ right
        if gpu:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return float(2 * rows**3 / best / 1e12)


def time_to_accuracy(run: Path, seed: int) -> dict[str, Any]:
    """The accuracy of each stage, and the seconds until a stage reached each target."""
    judged = row(run, seed, load_real(run))
    stages = manifests(run)
    accuracy = judged["stages"] | {"readings": judged["captcha_accuracy"]}
    passed, ended = 0.0, {}
    for stage in ("store", "background", "calibrate", "refine", "read", "adapt", "readings"):
        passed += stages[stage]["seconds"] if stage in stages else 0.0
        ended[stage] = passed
    return {
        **judged,
        "ended_after_seconds": ended,
        **{
            f"seconds_to_{percent}": min(
                (ended[stage] for stage, of in accuracy.items() if of >= percent / 100),
                default=None,
            )
            for percent in (95, 99)
        },
    }


def time_refiner(run: Path, settings: SimGANSettings, seed: int) -> dict[str, Any]:
    """Run Algorithm 1 on the run's images, and time its adversarial steps with the simulator."""
    config, fabric = run_config(run), run_fabric(run)
    background = Background.load(run / "background" / "background.npz")
    simulator = Simulator(config.scheme, config.simulator, background)
    workers = max(
        config.drawing_processes(fabric.device.type), 8 if fabric.device.type == "cuda" else 0
    )
    lab = Lab(config.scheme, background, simulator, load_real(run).images, seed, workers)
    ended: list[float] = []
    if fabric.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        result = train_refiner(
            synthetic=lab.synthetic_ink(_STREAM, settings.batch_size),
            real=lab.real_ink(settings.batch_size),
            folder=Path(folder),
            fabric=fabric,
            seed=seed,
            settings=settings,
            on_step=lambda step, total, figures: ended.append(time.perf_counter()),
            warn=print,
        )
    # Without the pre-training and the first adversarial step, which chooses kernels.
    steps = len(ended) - 3
    if steps < 1:
        raise UsageError(f"expected --steps of at least 2, got {settings.steps}")
    rate = steps / (ended[-1] - ended[2])
    each = result.flops / settings.total_steps
    return {
        "settings": settings.model_dump(mode="json"),
        "steps_per_second": rate,
        "flops_per_step": each,
        "tflops": rate * each / 1e12,
        "images_per_second": rate * settings.batch_size,
        "peak_memory_bytes": (
            torch.cuda.max_memory_allocated() if fabric.device.type == "cuda" else 0
        ),
    }


def time_reader(run: Path, batch: int, *, compiled: bool, steps: int = 50) -> float:
    """Images per second in a training step of the reader without the simulator, best of three."""
    config, fabric = run_config(run), run_fabric(run)
    architecture = recognizer_architecture(config, pose=True)
    model = in_memory_format(build_recognizer(architecture))
    reader, optimizer = fabric.setup(model, torch.optim.AdamW(model.parameters(), 1e-3))
    reader.train()
    background = Background.load(run / "background" / "background.npz")
    simulator = PosedSimulator(Simulator(config.scheme, config.simulator, background))
    drawn, drawn_targets = simulator.batch(np.random.default_rng(_STREAM), batch)
    normalised = torch.from_numpy(background.normalise(drawn))
    images = normalised.to(fabric.device, memory_format=MEMORY_FORMAT)
    targets = torch.from_numpy(drawn_targets).to(fabric.device)

    def loss_of(images: Tensor, targets: Tensor) -> Tensor:
        return posed_objective(reader(images), targets)[0]

    forward = torch.compile(loss_of, mode="reduce-overhead") if compiled else loss_of
    best = 0.0
    for _ in range(4):  # the first one compiles or chooses kernels
        if fabric.device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(steps):
            take_step(fabric, reader, optimizer, forward(images, targets), 1e-3, 1)
        if fabric.device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, batch * steps / (time.perf_counter() - started))
    return best


if __name__ == "__main__":
    main()
