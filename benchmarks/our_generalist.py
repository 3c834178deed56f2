"""Runs our generalist, which needs no training, on a list of images for zero_shot.py.

    python benchmarks/our_generalist.py KNOWN JOB RESULT

JOB and RESULT have the same format as in stock_readers.py.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import stock_readers
from stock_readers import DECODED, NOTHING, Job, Read

import simgan_captcha
from simgan_captcha import Unreadable

KNOWN = (NOTHING, DECODED)


def start(job: Job, known: str) -> Read:
    """Return a function that reads paths, with what is known of the texts."""
    told: dict[str, Any] = {}
    if known == DECODED:
        told = {"alphabet": job.alphabet, "length": (job.shortest, job.longest)}
    return lambda paths: [
        "" if isinstance(reading, Unreadable) else reading.text
        for reading in simgan_captcha.read([*map(Path, paths)], **told)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("known", choices=KNOWN)
    parser.add_argument("job", type=Path)
    parser.add_argument("result", type=Path)
    options = parser.parse_args()
    job = stock_readers.load_job(options.job)
    done = stock_readers.do(job, lambda: start(job, options.known))
    done["versions"] = {"simgan-captcha": simgan_captcha.__version__}
    options.result.write_text(json.dumps(done))


if __name__ == "__main__":
    main()
