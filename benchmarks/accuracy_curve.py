"""Plots accuracy on real captchas against training FLOPs: what each part of the program adds.

    python benchmarks/accuracy_curve.py OUT --challenges ../shared/data/hackmit2017/challenges

Each arm is a complete run of the pipeline. Its reader trains until the arm has cost as much as the
preset. The script keeps the averaged reader of each checkpoint while the arm trains. When the arm
is finished, it judges these readers on 5,000 real captchas under random names. The FLOPs of a
checkpoint include all stages up to it. The learning rate has fully decayed only at the last
checkpoint. An earlier one therefore reads less well than an arm that was planned to end there.
Writes benchmarks/results/accuracy_curve_PRESET.{json,md,png}.
"""

import argparse
import io
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from real_captchas import RealCaptchas, figures, finish_run, judge_reader, load_real, rename, split
from record import RESULTS, manifests, provenance, training_flops, with_interval, write_result

from simgan_captcha.atomic import write_bytes
from simgan_captcha.config.settings import RunConfig, resolve_config
from simgan_captcha.data.background import Background
from simgan_captcha.pipeline.cost import planned_training_flops, recognizer_architecture
from simgan_captcha.pipeline.progress import StageProgress
from simgan_captcha.recognizer.decode import load_recognizer, save_recognizer
from simgan_captcha.recognizer.network import build_recognizer
from simgan_captcha.recognizer.train import CHECKPOINT
from simgan_captcha.training.checkpoint import load_weights

AVERAGED = {"read": "average", "adapt": "teacher"}
"""The stages that train a reader, and the checkpoint prefix of the weights to keep."""


@dataclass(frozen=True)
class Arm:
    """One run of the comparison."""

    settings: tuple[str, ...]
    begins_as: str | None = None
    """The arm that has the same first stages. Its stages are copied."""


_NOT_ADAPTED = "adaptation.steps=0"
_NOT_REFINED = ("recognizer.images=raw",)
_REFINED = ("recognizer.images=refined",)

ARMS = {
    "raw": Arm(("calibrate=false", *_NOT_REFINED, _NOT_ADAPTED)),
    "calibrated": Arm(("calibrate=true", *_NOT_REFINED, _NOT_ADAPTED)),
    "calibrated-refined": Arm(("calibrate=true", *_REFINED, _NOT_ADAPTED), "calibrated"),
    "calibrated-adapted": Arm(("calibrate=true", *_NOT_REFINED), "calibrated"),
    "calibrated-refined-adapted": Arm(("calibrate=true", *_REFINED), "calibrated-refined"),
}


class CheckpointKeeper(StageProgress):
    """Keeps the averaged reader of each checkpoint. A stage reports a step after saving it."""

    def __init__(self, run: Path, config: RunConfig, kept: Path) -> None:
        super().__init__()
        self.run, self.config, self.kept = run, config, kept
        self.name = ""

    def stage(self, name: str) -> None:
        """Begin a stage."""
        super().stage(name)
        self.name = name

    def update(self, step: float, total: float, **told: float | str) -> None:
        """Report a step."""
        super().update(step, total, **told)
        if self.name in AVERAGED and step in checkpoint_steps(self.config, self.name):
            architecture = recognizer_architecture(self.config)
            reader = build_recognizer(architecture)
            saved, _ = load_weights(self.run / self.name / CHECKPOINT)
            prefix = f"module/{AVERAGED[self.name]}/"
            # The checkpoint may hold weights that only training needs, such as those for positions.
            reader.load_state_dict({key: saved[prefix + key] for key in reader.state_dict()})
            save_recognizer(self.kept / checkpoint_name(self.name, int(step)), reader, architecture)


def checkpoint_steps(config: RunConfig, stage: str) -> list[int]:
    """The steps of a stage that leave a checkpoint."""
    settings = config.recognizer if stage == "read" else config.adaptation
    every = settings.checkpoint_every
    return sorted({*range(every, settings.steps + 1, every), settings.steps} - {0})


def checkpoint_name(stage: str, step: int) -> str:
    return f"{stage}-{step:06d}.safetensors"


def main() -> None:
    began = provenance()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, metavar="OUT", help="folder for the runs; kept")
    parser.add_argument("--challenges", type=Path, required=True, help="folder of batch files")
    parser.add_argument("--user", default="rickyhan")
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--points", type=int, default=8, help="checkpoints a stage of the preset")
    parser.add_argument("--test", type=int, default=5_000, help="images to judge on")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    challenges = rename(options.challenges, options.work / "renamed")

    curves: dict[str, list[dict[str, Any]]] = {}
    for name in options.arms:
        run, begins_as = options.work / name, ARMS[name].begins_as
        if begins_as and not run.exists() and (options.work / begins_as).exists():
            shutil.copytree(options.work / begins_as, run)
        settings = arm_settings(options.preset, options.settings, ARMS[name], options.points)
        config = resolve_config(options.preset, settings)
        kept = options.work / "checkpoints" / name
        finish_run(
            run,
            challenges,
            user=options.user,
            seed=options.seed,
            preset=options.preset,
            settings=settings,
            progress=CheckpointKeeper(run, config, kept),
        )
        _, test = split(load_real(run), 0, options.test, options.seed)
        curves[name] = list(judge_checkpoints(run, config, kept, test))
        print(name, f"{curves[name][-1]['captcha_accuracy']:.2%}", flush=True)

    report = {
        **began,
        "preset": options.preset,
        "seed": options.seed,
        "precision": manifests(run)["read"]["precision"],
        "curves": curves,
    }
    result = f"accuracy_curve_{options.preset}"
    write_bytes(options.out / f"{result}.png", chart(curves))
    write_result(
        options.out,
        result,
        f"What each part adds, on {options.test:,} real captchas, no label",
        report,
        ("arm", "whole captcha (95 % interval)", "training TFLOP", "TFLOP to 80 %", "90 %", "95 %"),
        [
            (
                arm,
                with_interval(curve[-1]),
                f"{curve[-1]['training_flops'] / 1e12:.1f}",
                *(tflop_to(share, curve) for share in (0.8, 0.9, 0.95)),
            )
            for arm, curve in curves.items()
        ],
    )


def arm_settings(preset: str, settings: Sequence[str], arm: Arm, points: int) -> list[str]:
    """The settings of an arm: the requested number of checkpoints and the FLOPs of the preset."""
    plain = resolve_config(preset, settings)
    every = [
        f"recognizer.checkpoint_every={max(1, plain.recognizer.steps // points)}",
        # Whether and how long a recognizer adapts is independent of its confidence.
        "adaptation.enough=2",
        "adaptation.max_steps_factor=1",
        f"adaptation.checkpoint_every={max(1, plain.adaptation.steps // points)}",
    ]
    chosen = [*settings, *every, *arm.settings]

    def planned(steps: int) -> int:
        return planned_training_flops(
            resolve_config(preset, [*chosen, f"recognizer.steps={steps}"])
        )

    each = planned(2) - planned(1)
    steps = 1 + round((planned_training_flops(plain) - planned(1)) / each)
    return [*chosen, f"recognizer.steps={max(1, steps)}"]


def judge_checkpoints(
    run: Path, config: RunConfig, kept: Path, test: RealCaptchas
) -> Iterator[dict[str, Any]]:
    """The accuracy of each checkpoint, and the cost of all training up to it."""
    background = Background.load(run / "background" / "background.npz")
    for stage in AVERAGED if config.adaptation.steps else ["read"]:
        steps = checkpoint_steps(config, stage)
        taken = manifests(run)[stage]["training_flops"]
        before = training_flops(run, up_to=stage) - taken
        for step in steps:
            reader, _ = load_recognizer(kept / checkpoint_name(stage, step))
            yield {
                "stage": stage,
                "step": step,
                "training_flops": before + taken * step // steps[-1],
                **figures(judge_reader(reader, background, config.scheme, test)),
            }


def tflop_to(share: float, curve: Sequence[dict[str, Any]]) -> str:
    """The training cost up to the first checkpoint that reads this share of the captchas."""
    for point in curve:
        if point["captcha_accuracy"] >= share:
            return f"{point['training_flops'] / 1e12:.1f}"
    return "–"


def chart(curves: dict[str, list[dict[str, Any]]]) -> bytes:
    """Draw all curves as a PNG."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for arm, curve in curves.items():
        tflop = [point["training_flops"] / 1e12 for point in curve]
        shares = [100 * point["captcha_accuracy"] for point in curve]
        axes.plot(tflop, shares, marker=".", label=arm)
    axes.set(xlabel="training TFLOP so far", ylabel="whole captchas right, %")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
