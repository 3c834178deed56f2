"""What `make demo` came to: the server's verdict, and what the run cost.

    python benchmarks/demo_result.py demo-run

Writes benchmarks/results/demo.json.
"""

import argparse
import json
import sys
from pathlib import Path

from simgan_captcha.atomic import write_json
from simgan_captcha.run_folder import VERDICT, read_run
from simgan_captcha.stages import MANIFEST

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    recorded = read_run(run)
    verdict = json.loads((run / VERDICT).read_text())
    stages = [json.loads(path.read_text()) for path in sorted(run.glob(f"*/{MANIFEST}"))]
    report = {
        "command": "python benchmarks/demo_result.py " + " ".join(sys.argv[1:]),
        "run": {key: recorded[key] for key in ("command", "preset", "seed")},
        "verdict": {key: verdict[key] for key in ("passed", "submitted", "message")},
        "training_flops": sum(stage["training_flops"] for stage in stages),
        "seconds": round(sum(stage["seconds"] for stage in stages), 1),
        "seconds_by_stage": {stage["stage"]: stage["seconds"] for stage in stages},
        "machine": stages[0]["machine"],
        "versions": stages[0]["versions"],
    }
    write_json(RESULTS / "demo.json", report)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
