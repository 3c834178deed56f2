"""Our own reader that knows letters before any run, on a list of images; for zero_shot.py.

    python benchmarks/our_generalist.py KNOWN JOB RESULT

The same job and result as of stock_readers.py.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import stock_readers
from stock_readers import DECODED, NOTHING, Job, Read

import simgan_captcha

KNOWN = (NOTHING, DECODED)


def missing() -> str | None:
    """Why it cannot be measured here, in words; None where it can."""
    if not hasattr(simgan_captcha, "read"):
        return "this simgan_captcha has no read()"
    return None


def told(job: Job) -> dict[str, Any]:
    """Alphabet and length, as `simgan_captcha.read` takes them: "4" or "4-6"."""
    one = job.shortest == job.longest
    length = str(job.longest) if one else f"{job.shortest}-{job.longest}"
    return {"alphabet": job.alphabet, "length": length}


def start(job: Job, known: str) -> Read:
    """Ready to read paths, told what is known."""
    read: Any = simgan_captcha.read
    knowing = told(job) if known == DECODED else {}
    return lambda paths: [reading.text for reading in read(paths, **knowing)]


def weights() -> int | None:
    """Bytes of the networks that the package holds; None where it holds none."""
    package = Path(simgan_captcha.__file__).parent
    return sum(path.stat().st_size for path in package.rglob("*.onnx")) or None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("known", choices=KNOWN)
    parser.add_argument("job", type=Path)
    parser.add_argument("result", type=Path)
    options = parser.parse_args()
    job = stock_readers.load_job(options.job)
    done = stock_readers.do(job, lambda: start(job, options.known))
    done["model_bytes"] = done["model_bytes"] or weights()
    done["versions"] = {"simgan-captcha": simgan_captcha.__version__}
    options.result.write_text(json.dumps(done))


if __name__ == "__main__":
    main()
