"""Measures what self-training on the unlabelled images of one family adds to the generalist.

    python benchmarks/specialization.py --families ../shared/data/families

The alphabet and length of each real family are known. Case is ignored. The table shows the accuracy
on whole texts before and after specialization, the mean confidence of the specialized network, and
the CPU seconds. Labels are used only for judging. Writes
benchmarks/results/specialization.{json,md} after each family. Families that the file already holds
are not measured again.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import RESULTS, percent, provenance, share_with_interval, write_result
from zero_shot import REAL_FAMILIES, least_and_most

import simgan_captcha.generalist
from simgan_captcha.data.pictures import open_picture
from simgan_captcha.evaluation.labels import read_labels_csv
from simgan_captcha.generalist.decoding import Alphabet, PossibleTexts
from simgan_captcha.generalist.network import Generalist, load_generalist
from simgan_captcha.generalist.specialization.settings import SpecializationSettings
from simgan_captcha.generalist.specialization.specialize import (
    decode_all,
    prepare,
    read_columns,
    specialize,
)

WEIGHTS = Path(simgan_captcha.generalist.__file__).parent / "weights" / "generalist.safetensors"


def main(arguments: Sequence[str] | None = None) -> None:
    began = provenance()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", type=Path, default=Path("../shared/data/families"))
    parser.add_argument("--steps", type=int, default=SpecializationSettings().steps)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--only", nargs="+", choices=list(REAL_FAMILIES), default=list(REAL_FAMILIES)
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    file = options.out / "specialization.json"
    rows: list[dict[str, Any]] = json.loads(file.read_text())["rows"] if file.is_file() else []
    for name in options.only:
        key = {"family": name, "seed": options.seed, "steps": options.steps}
        if any(key.items() <= row.items() for row in rows):
            continue
        settings = SpecializationSettings(steps=options.steps)
        rows.append({**key, **measured(options.families / name, name, settings, options.seed)})
        report = {**began, "seed": options.seed, "precision": "bfloat16 mixed", "rows": rows}
        write_result(
            options.out,
            "specialization",
            "The generalist at once and after self-training on one family's unlabelled images, "
            "alphabet and length known: whole texts right, case ignored (95 % interval)",
            report,
            ("family", "images", "at once", "specialized", "its mean confidence", "CPU seconds"),
            [
                (
                    row["family"],
                    f"{row['images']:,}",
                    percent(row["at_once"]),
                    f"**{percent(row['specialized'])}**",
                    f"{row['confidence']:.1%}",
                    f"{row['cpu_seconds']:.0f}",
                )
                for row in rows
            ],
        )


def measured(
    folder: Path, name: str, settings: SpecializationSettings, seed: int
) -> dict[str, Any]:
    """Measure one family."""
    truth = read_labels_csv(folder / "labels.csv")
    files = sorted((folder / "images").iterdir())
    images = prepare([open_picture(file).rgb for file in files])
    characters, length = REAL_FAMILIES[name]
    possible = PossibleTexts.of_lengths(Alphabet(characters), least_and_most(length))
    network, _ = load_generalist(WEIGHTS)

    def right(of: Generalist) -> tuple[list[float], float]:
        """The accuracy of a network, and its mean confidence."""
        decoded = decode_all(read_columns(of, torch.from_numpy(images), bf16=True), possible)
        count = sum(
            one.text.casefold() == truth[file.name].casefold()
            for one, file in zip(decoded, files, strict=True)
        )
        confidence = float(np.mean([one.confidence for one in decoded]))
        return share_with_interval(count, len(files)), confidence

    at_once, _ = right(network)
    start = time.process_time()
    specialized = specialize(network, images, possible, settings, seed=seed, bf16=True)
    seconds = time.process_time() - start
    after, confidence = right(specialized)
    return {
        "images": len(files),
        "at_once": at_once,
        "specialized": after,
        "confidence": confidence,
        "cpu_seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    main()
