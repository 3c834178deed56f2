"""Golden hashes: small runs of every kind, and the SHA-256 of the files of each stage.

    python -m tests.golden > before.txt

Run this before and after a change that must not change behaviour, and compare the two outputs. The
lines are ``case stage file sha256``. ``identity`` is the identity of the stage. ``result`` is the
result in its manifest. Both are hashed as JSON, without speeds and paths.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from simgan_captcha.data.images import decode_grey
from tests.drawing import encode_jpeg
from tests.small_run import CALIBRATED, draw_captchas, pipeline, write_challenges

CASES: dict[str, tuple[str, ...]] = {
    "refined_and_adapted": (),
    "several_lengths": ("scheme.length=[1,2]", "recognizer.images=raw", "adaptation.steps=2"),
    "calibrated": (*CALIBRATED, "recognizer.images=refined", "simgan.steps=4"),
    "calibrated_several_lengths": (*CALIBRATED, "adaptation.steps=0", "scheme.length=[1,2]"),
    "cluttered": (
        *CALIBRATED,
        "adaptation.steps=0",
        "simulator.layout={}",
        'scheme.clutter=["lines", "dots"]',
        "scheme.wavy_baseline=true",
        'scheme.background="varying"',
    ),
    "of_2017": (
        "scheme.height=48",
        "scheme.width=96",
        "encoding=binary",
        "lines=average",
        "generator=original",
        "recognizer.kind=original",
        "recognizer.images=refined",
        "adaptation.steps=0",
    ),
}

_OF_A_MOMENT = ("manifest.json", "identity.json", "elapsed.json", "ingest.json")
_NOT_COMPARED = ("images_per_second", "location")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _json_hash(value: object) -> str:
    return _sha256(json.dumps(value, sort_keys=True).encode())


def _twice_as_large(image: bytes) -> bytes:
    return encode_jpeg(np.repeat(np.repeat(decode_grey(image), 2, axis=0), 2, axis=1), 90)


def _hashes(run: Path) -> Iterator[str]:
    for manifest_path in sorted(run.glob("*/manifest.json")):
        folder = manifest_path.parent
        manifest = json.loads(manifest_path.read_text())
        # The identity of the store is its content.
        recorded = folder / "identity.json"
        identity = json.loads(recorded.read_text()) if recorded.exists() else manifest["content"]
        result = {k: v for k, v in manifest["result"].items() if k not in _NOT_COMPARED}
        yield f"{folder.name} identity {_json_hash(identity)}"
        yield f"{folder.name} result {_json_hash(result)}"
        yield f"{folder.name} cost {manifest['images']} {manifest['training_flops']}"
        for path in sorted(folder.rglob("*")):
            if (
                path.is_file()
                and folder.name != "store"
                and path.name not in _OF_A_MOMENT
                and not path.name.startswith("events.out")
            ):
                name = path.relative_to(folder)
                yield f"{folder.name} {name} {_sha256(path.read_bytes())}"


def main() -> None:
    """Print the hashes of all cases, or of the named ones."""
    with TemporaryDirectory() as temporary:
        challenges = Path(temporary) / "challenges"
        captchas = draw_captchas()
        write_challenges(challenges, captchas)
        # The network of 2017 needs larger images.
        enlarged = [(_twice_as_large(image), text) for image, text in captchas]
        write_challenges(Path(temporary) / "large", enlarged)
        for case in sys.argv[1:] or CASES:
            run = Path(temporary) / case
            images = challenges if case != "of_2017" else Path(temporary) / "large"
            readings = pipeline(run, images, *CASES[case])
            for line in _hashes(run):
                print(case, line, flush=True)
            rows = [(r.name, r.text, r.confidence, list(r.character_confidence)) for r in readings]
            print(case, "readings table", _json_hash(rows), flush=True)


if __name__ == "__main__":
    main()
