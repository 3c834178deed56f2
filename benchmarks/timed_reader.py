"""Times one reader on a folder of images, in a process of its own on one core.

    PYTHON benchmarks/timed_reader.py CORE KIND FOLDER [MODEL]

reading_rate.py calls this script. It prints JSON with these figures:

- the CPU seconds from the start of the process until one image is read;
- the milliseconds of some images that are read one at a time;
- the CPU seconds of all images, in batches if the reader supports them;
- the peak memory, and the texts in the order of the files.

The script imports nothing of this package except the exported reader, because the stock readers
live in another environment.
"""

import argparse
import json
import os
import re
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_ALONE = 50  # images that are read one at a time

Read = Callable[[list[bytes]], list[str]]


def simgan(model: str) -> Read:
    """A reader of a file that ``simgan-captcha export`` wrote."""
    from simgan_captcha import Reader

    reader = Reader(model, threads=1)
    return lambda images: [getattr(row, "text", "") for row in reader.read(list(images))]


def ddddocr(_: str, *, beta: bool = False) -> Read:
    """ddddocr, limited to one thread. ``beta`` selects its second model."""
    import onnxruntime
    from ddddocr import DdddOcr

    # By default the runtime uses as many threads as there are cores, and pins them to cores of its
    # own, even if this process may use only one core.
    session = onnxruntime.InferenceSession

    def of_one_thread(model: str, **named: Any) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        return session(model, options, **named)

    onnxruntime.InferenceSession = of_one_thread
    reader = DdddOcr(show_ad=False, beta=beta)
    return lambda images: [reader.classification(image).lower() for image in images]


def tesseract(_: str) -> Read:
    """Tesseract, for one line of text of these characters."""
    import io

    import pytesseract
    from PIL import Image

    pytesseract.get_tesseract_version()
    whitelist = "0123456789abcdefghijklmnopqrstuvwxyz"
    config = f"--psm 7 -c tessedit_char_whitelist={whitelist}"

    def read(image: bytes) -> str:
        return "".join(
            pytesseract.image_to_string(Image.open(io.BytesIO(image)), config=config).split()
        )

    return lambda images: [read(image) for image in images]


READERS: dict[str, Callable[[str], Read]] = {
    "simgan": simgan,
    "ddddocr": ddddocr,
    "ddddocr-beta": lambda model: ddddocr(model, beta=True),
    "tesseract": tesseract,
}


def cpu_seconds() -> float:
    """CPU seconds of this process and of the child processes that it waited for."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(of.ru_utime + of.ru_stime for of in spent)


def peak_bytes() -> int:
    """The peak resident memory of this process or of its largest finished child."""
    # Not from getrusage, which includes the process that this one was forked from.
    own = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return max(int(own[1]) if own else 0, children) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("core", type=int)
    parser.add_argument("kind", choices=READERS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("model", nargs="?", default="")
    options = parser.parse_args()
    interpreter = cpu_seconds()
    os.sched_setaffinity(0, {options.core})  # before the runtimes count the cores
    images = [path.read_bytes() for path in sorted(options.folder.iterdir())]
    before = cpu_seconds()
    read = READERS[options.kind](options.model)
    read(images[:1])
    startup = interpreter + cpu_seconds() - before
    milliseconds = []
    for image in images[:_ALONE]:
        began = time.perf_counter()
        read([image])
        milliseconds.append((time.perf_counter() - began) * 1e3)
    before = cpu_seconds()
    texts = read(images)
    seconds = cpu_seconds() - before
    json.dump(
        {
            "startup_cpu_seconds": startup,
            "milliseconds": milliseconds,
            "cpu_seconds": seconds,
            "peak_bytes": peak_bytes(),
            "texts": texts,
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
