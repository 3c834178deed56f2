"""Records the result of `make demo`: the verdict of the server, and the cost of the run.

    python benchmarks/demo_result.py demo-run

Writes benchmarks/results/demo.json.
"""

import argparse
import json
from pathlib import Path

from record import RESULTS, manifests, provenance, training_flops

from simgan_captcha.atomic import write_json
from simgan_captcha.pipeline.run_folder import VERDICT, read_run


def main() -> None:
    began = provenance()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    run = options.run
    recorded = read_run(run)
    verdict = json.loads((run / VERDICT).read_text())
    stages = manifests(run)
    report = {
        **began,
        "run": {key: recorded[key] for key in ("preset", "seed")},
        "verdict": {key: verdict[key] for key in ("passed", "submitted", "message")},
        "training_flops": training_flops(run),
        "seconds": round(sum(stage["seconds"] for stage in stages.values()), 1),
        "seconds_by_stage": {name: stage["seconds"] for name, stage in stages.items()},
        # The machine of the run, which may differ from this one.
        "machine": stages["readings"]["machine"],
        "versions": stages["readings"]["versions"],
    }
    write_json(options.out / "demo.json", report)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
