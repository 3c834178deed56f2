"""Compares the readings of two runs on the same images under different names, bit for bit.

    python benchmarks/compare_readings.py RUN RENAMED-RUN

The readings are sorted by the content of their images. RUN must have been judged. Writes
benchmarks/results/renamed_readings.json.
"""

import argparse
import json
from pathlib import Path

from record import RESULTS, manifests, provenance, training_flops

from simgan_captcha.atomic import write_json
from simgan_captcha.inference.readings import load_readings
from simgan_captcha.pipeline.run_folder import JUDGEMENT, READINGS, read_run


def main() -> None:
    began = provenance()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("renamed", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    one, two = (load_readings(run / READINGS) for run in (options.run, options.renamed))
    pairs = list(zip(one, two, strict=True))
    judgement = json.loads((options.run / JUDGEMENT).read_text())
    recorded = read_run(options.run)
    report = {
        **began,
        "run": {key: recorded[key] for key in ("preset", "seed")},
        "captcha_accuracy": judgement["captcha_accuracy"],
        "captcha_interval": judgement["captcha_interval"],
        "character_accuracy": judgement["character_accuracy"],
        "images": len(pairs),
        "same_name": sum(a.name == b.name for a, b in pairs),
        "same_text": sum(a.text == b.text for a, b in pairs),
        "same_to_the_bit": sum(
            (a.text, a.character_confidence) == (b.text, b.character_confidence) for a, b in pairs
        ),
        "training_flops": training_flops(options.run),
        "precision": manifests(options.run)["readings"]["precision"],
    }
    write_json(options.out / "renamed_readings.json", report)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
