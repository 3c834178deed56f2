"""Runs a pretrained reader of another project on a list of images, for zero_shot.py.

    PYTHON benchmarks/stock_readers.py READER KNOWN JOB RESULT

PYTHON belongs to an environment with ddddocr, captcha-whisperer and rapidocr (`make rivals` makes
one). This script therefore imports nothing of our package. JOB is a JSON file with image paths,
alphabet, lengths and the start time of the process. The script writes the texts in the same order
to RESULT, with their cost on one thread.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

NOTHING, ALPHABET, DECODED = "nothing", "alphabet", "decoded"
"""What is known: nothing; the alphabet, if the reader accepts one; or alphabet and length, which
`constrained_text` applies to the network output."""


@dataclass(frozen=True)
class Job:
    """Images to read, and what may be known about their texts."""

    images: Sequence[str]
    alphabet: str
    shortest: int
    longest: int
    began: float
    """The start time of the process, as from `time.time`."""


Read = Callable[[list[str]], list[str]]


@dataclass(frozen=True)
class Frames:
    """The network output for one image, to be decoded by CTC."""

    probabilities: npt.NDArray[np.float32]
    """(T, K): time steps and classes."""
    labels: Sequence[str]
    """The characters of the K classes."""
    blank: int


def ddddocr(job: Job, known: str, *, beta: bool = False) -> Read:
    """ddddocr, a popular stock reader. ``beta`` selects its larger network."""
    from ddddocr import DdddOcr

    reader = DdddOcr(show_ad=False, beta=beta)
    if known == ALPHABET:
        reader.set_ranges("".join(sorted(set(job.alphabet.lower() + job.alphabet.upper()))))

    def frames(path: str) -> Frames:
        said = reader.classification(Path(path).read_bytes(), probability=True)
        classes = len(said["charset"])
        return Frames(np.asarray(said["probabilities"]).reshape(-1, classes), said["charset"], 0)

    if known == DECODED:
        return lambda paths: [constrained_text(frames(path), job) for path in paths]
    return lambda paths: [reader.classification(Path(path).read_bytes()) for path in paths]


def captcha_whisperer(job: Job, known: str) -> Read:
    """captcha-whisperer, a small network for captchas only.

    Its own decoder takes the class of '0' as the blank and never returns '0'. `constrained_text`
    can return it.
    """
    from captcha_whisperer import BLANK_INDEX, LABELS, CaptchaRecognizer
    from captcha_whisperer.preprocess import preprocess_bytes

    reader = CaptchaRecognizer(threads=1)

    def frames(path: str) -> Frames:
        image = preprocess_bytes(Path(path).read_bytes())
        [given] = reader._session.run(None, {reader._input_name: image})
        raised = np.exp(given[:, 0] - given[:, 0].max(1, keepdims=True))
        return Frames(raised / raised.sum(1, keepdims=True), LABELS, BLANK_INDEX)

    if known == DECODED:
        return lambda paths: [constrained_text(frames(path), job) for path in paths]
    return lambda paths: [reader.recognize_bytes(Path(path).read_bytes())["text"] for path in paths]


def rapidocr(job: Job, known: str) -> Read:
    """The line recognizer of rapidocr, without its text detector."""
    from rapidocr import RapidOCR

    reader = RapidOCR(params={"Global.log_level": "error"})
    recognizer = reader._load_rec_model()

    def frames(path: str) -> Frames:
        image, _ = reader.preprocess_img(reader.load_img(path))
        _, height, width = recognizer.rec_image_shape
        ratio = max(width / height, image.shape[1] / image.shape[0])
        [given] = recognizer.session(recognizer.resize_norm_img(image, ratio)[None])
        return Frames(given, recognizer.postprocess_op.character, 0)

    def text(path: str) -> str:
        texts = reader(path, use_det=False, use_cls=False, use_rec=True).txts
        return str(texts[0]) if texts else ""

    if known == DECODED:
        return lambda paths: [constrained_text(frames(path), job) for path in paths]
    return lambda paths: [text(path) for path in paths]


@dataclass(frozen=True)
class StockReader:
    """A reader, and the package that contains it."""

    package: str
    start: Callable[[Job, str], Read]
    known: tuple[str, ...] = (NOTHING, DECODED)
    """The kinds of knowledge that it can use."""


READERS = {
    "ddddocr": StockReader("ddddocr", ddddocr, (NOTHING, ALPHABET, DECODED)),
    "ddddocr-beta": StockReader(
        "ddddocr",
        lambda job, known: ddddocr(job, known, beta=True),
        (NOTHING, ALPHABET, DECODED),
    ),
    "captcha-whisperer": StockReader("captcha-whisperer", captcha_whisperer),
    "rapidocr": StockReader("rapidocr", rapidocr),
}


def constrained_text(frames: Frames, job: Job) -> str:
    """The text of the most probable path that satisfies alphabet and length.

    This is dynamic programming over time steps, number of characters, and class. Case is ignored.
    The text is empty if there are fewer time steps than characters.

    The package has its own decoder (generalist/decoding.py), but this script runs where the package
    is not installed. The two decoders also differ: the package's assigns the probability of other
    characters to the alphabet, and this one discards it.

    Source: A. Graves et al., Connectionist temporal classification, 2006. Deviation: the best path
    instead of the sum over paths.
    """
    allowed = set(job.alphabet.casefold())
    kept = [n for n, label in enumerate(frames.labels) if label.casefold() in allowed]
    kept = [frames.blank, *(n for n in kept if n != frames.blank)]
    scores = np.log(frames.probabilities[:, kept] + 1e-12)
    steps, classes = scores.shape
    same = np.where(np.eye(classes, dtype=bool), -np.inf, 0)
    state = np.arange((job.longest + 1) * classes).reshape(-1, classes)
    best = np.full(state.shape, -np.inf)  # by number of characters and last class
    best[0, 0] = 0
    came = np.tile(state, (steps, 1, 1))  # the previous state, initially the same state
    for step in range(steps):
        new = best.copy()
        new[:, 0] = best.max(1)
        came[step, :, 0] = state[:, 0] + best.argmax(1)
        begun = best[:-1, None, :] + same  # number of characters before, new class, class before
        begins = begun.max(2) > best[1:]
        begins[:, 0] = False
        new[1:][begins] = begun.max(2)[begins]
        came[step, 1:][begins] = (state[:-1, :1] + begun.argmax(2))[begins]
        best = new + scores[step]
    ends = best[job.shortest :]
    if not np.isfinite(ends.max()):
        return ""
    at = int(state[job.shortest :].flat[ends.argmax()])
    text = ""
    for step in reversed(range(steps)):
        before = int(came[step].flat[at])
        if before // classes < at // classes:
            text = frames.labels[kept[at % classes]] + text
        at = before
    return text


def hold_to_one_thread() -> list[int]:
    """Limit ONNX Runtime to one thread. Return a list that collects the sizes of opened models.

    By default it uses as many threads as there are cores, even if OMP_NUM_THREADS is set.
    """
    import onnxruntime

    sizes: list[int] = []
    session = onnxruntime.InferenceSession

    def of_one_thread(model: Any, sess_options: Any = None, **named: Any) -> Any:
        options = sess_options or onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        sizes.append(len(model) if isinstance(model, bytes) else Path(model).stat().st_size)
        return session(model, options, **named)

    onnxruntime.InferenceSession = of_one_thread
    return sizes


def do(job: Job, start: Callable[[], Read]) -> dict[str, Any]:
    """Read the images, and return the texts and their cost. This process must be new."""
    sizes = hold_to_one_thread()
    read = start()
    read([job.images[0]])
    startup, startup_cpu = time.time() - job.began, time.process_time()
    before = time.process_time()
    texts = read(list(job.images))
    return {
        "texts": ["".join(text.split()) for text in texts],
        "cpu_seconds": time.process_time() - before,
        "startup_seconds": startup,
        "startup_cpu_seconds": startup_cpu,
        "model_bytes": sum(sizes) or None,
    }


def load_job(path: Path) -> Job:
    return Job(**json.loads(path.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("known", choices=(NOTHING, ALPHABET, DECODED))
    parser.add_argument("job", type=Path)
    parser.add_argument("result", type=Path)
    options = parser.parse_args()
    job, reader = load_job(options.job), READERS[options.reader]
    done = do(job, lambda: reader.start(job, options.known))
    done["versions"] = {name: version(name) for name in (reader.package, "onnxruntime", "numpy")}
    options.result.write_text(json.dumps(done))


if __name__ == "__main__":
    main()
