"""The same reader trained on raw and on refined images, adapted or not, judged on real captchas.

    python benchmarks/main_table.py WORK --challenges ../shared/data/hackmit2017/challenges

Two runs of one preset: the second's reader sees refined images. Each is judged before and after its
adaptation. The images are renamed at random first, so no name can matter; the truth comes through
`judge` alone, when everything is learned. Writes benchmarks/results/main_table.{json,md}.
"""

import argparse
import json
import secrets
import shutil
import sys
from pathlib import Path
from typing import Any

from simgan_captcha.atomic import write_bytes, write_json
from simgan_captcha.background import Background
from simgan_captcha.config import RunConfig, resolve_config
from simgan_captcha.judge import Judgement, judge, puzzle_truth
from simgan_captcha.learning import load_images
from simgan_captcha.pipeline import run_pipeline
from simgan_captcha.progress import StageProgress
from simgan_captcha.reader.reading import load_reader, read_images
from simgan_captcha.stages import machine, versions
from simgan_captcha.store import CaptchaStore

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="folder for the runs; finished stages are kept")
    parser.add_argument("--challenges", type=Path, required=True, help="folder of batch files")
    parser.add_argument("--user", default="rickyhan")
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    renamed, names = rename(options.challenges, options.work / "renamed")
    true = puzzle_truth(options.user)
    truth = {new: true(old) for new, old in names.items()}

    rows = []
    for images in ("raw", "refined"):
        config = resolve_config(options.preset, [f"reader.images={images}"])
        run = options.work / images
        if images == "refined" and not run.exists():
            # Both runs share all stages before the reader's own training.
            shutil.copytree(options.work / "raw", run)
        with StageProgress() as progress:
            run_pipeline(
                run,
                config,
                challenges=str(renamed),
                user=options.user,
                seed=options.seed,
                preset=options.preset,
                progress=progress,
            )
        for stage in ("read", "adapt"):
            rows.append(row(run, stage, images, config, truth))
            print(rows[-1], flush=True)
    report = {
        "command": "python benchmarks/main_table.py " + " ".join(sys.argv[1:]),
        "preset": options.preset,
        "seed": options.seed,
        "machine": machine(),
        "versions": versions(),
        "rows": rows,
    }
    name = f"main_table_{options.preset}"
    write_json(RESULTS / f"{name}.json", report)
    write_bytes(RESULTS / f"{name}.md", markdown(report).encode())


def rename(challenges: Path, folder: Path) -> tuple[Path, dict[str, str]]:
    """A copy of the batches under random names, made once, and new name -> old name."""
    table = folder / "names.json"
    if not table.exists():
        names = {}
        for path in challenges.glob("challenge-*"):
            batch = json.loads(path.read_text())
            for image in batch["images"]:
                new = secrets.token_hex(16)
                names[new], image["name"] = image["name"], new
            write_json(folder / "challenges" / path.name, batch)
        write_json(table, names)
    return folder / "challenges", json.loads(table.read_text())


def row(
    run: Path, stage: str, images: str, config: RunConfig, truth: dict[str, str]
) -> dict[str, Any]:
    """Judge the reader of one stage on every stored image; what it cost up to there."""
    judgement = judge_stage(run, stage, config, truth)
    manifests = [
        json.loads((run / name / "manifest.json").read_text())
        for name in ("calibrate", "refine", "read", "adapt")
    ]
    until = manifests if stage == "adapt" else manifests[:-1]
    return {
        "reader trained on": images,
        "adapted": stage == "adapt",
        "images": judgement.images,
        "captcha_accuracy": judgement.captcha_accuracy,
        "captcha_interval": judgement.captcha_interval,
        "character_accuracy": judgement.character_accuracy,
        "training_tflop": sum(manifest["training_flops"] for manifest in until) / 1e12,
        "training_images": sum(manifest["images"] for manifest in until),
        "seconds": sum(manifest["seconds"] for manifest in until),
        "precision": manifests[0]["precision"],
        "confusions": [f"{c.truth} read as {c.read} {c.count}x" for c in judgement.confusions[:8]],
    }


def judge_stage(run: Path, stage: str, config: RunConfig, truth: dict[str, str]) -> Judgement:
    reader, _ = load_reader(run / stage / "reader.safetensors")
    background = Background.load(run / "background" / "background.npz")
    names, images = load_images(CaptchaStore(run / "store"))
    readings = list(read_images(reader, background, config.scheme, names, images))
    return judge(
        names,
        [reading.text for reading in readings],
        truth,
        config.scheme.alphabet,
        confidences=[reading.confidence for reading in readings],
    )


def markdown(report: dict[str, Any]) -> str:
    lines = [
        f"# Preset {report['preset']} on {report['rows'][0]['images']} real captchas, no label",
        "",
        f"`{report['command']}`, seed {report['seed']}, {report['machine']}, "
        f"torch {report['versions']['torch']}, {report['rows'][0]['precision']}",
        "",
        "| reader trained on | adapted | whole captcha (95 % interval) | per character "
        "| training TFLOP | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for r in report["rows"]:
        low, high = r["captcha_interval"]
        lines.append(
            f"| {r['reader trained on']} synthetic | {'yes' if r['adapted'] else 'no'} "
            f"| **{r['captcha_accuracy']:.2%}** ({low:.2%} to {high:.2%}) "
            f"| {r['character_accuracy']:.2%} | {r['training_tflop']:.1f} | {r['seconds']:.0f} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
