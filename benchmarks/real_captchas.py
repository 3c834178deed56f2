"""Real captchas with their true texts, which only benchmarks combine.

The truth is available only through `judge`. Label-free training gets none of it: runs are judged
after they finish. Only the supervised readers, which serve for comparison, learn from it.

Shapes: N images, B of them at a time, H and W pixels, L characters, K classes.
"""

import base64
import hashlib
import itertools
import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning_fabric import Fabric
from record import manifests
from torch import Tensor, nn

from simgan_captcha.atomic import core_count, write_json
from simgan_captcha.calibration.bootstrap import without_pose
from simgan_captcha.config.settings import RunConfig, load_config
from simgan_captcha.data.background import Background
from simgan_captcha.data.foreground import decode_scheme_image
from simgan_captcha.data.store import CaptchaStore
from simgan_captcha.errors import UsageError
from simgan_captcha.evaluation.judge import judge, puzzle_truth
from simgan_captcha.evaluation.judgement import Judgement
from simgan_captcha.pipeline.progress import StageProgress
from simgan_captcha.pipeline.run import run_pipeline
from simgan_captcha.pipeline.run_data import load_images
from simgan_captcha.pipeline.run_folder import READER, Request, read_run
from simgan_captcha.recognizer.augment import Augmentation, augment
from simgan_captcha.recognizer.decode import load_recognizer, read_images
from simgan_captcha.scheme import Scheme
from simgan_captcha.training.streams import LabelledStream
from simgan_captcha.types import GreyImages

NAMES = "names.json"

LIGHT = Augmentation(rotation=3, scale=0.03, shear=0.03, shift=0.04, noise=0.05, hole=0.1)
"""The augmentation of real images in supervised training."""

Indices = npt.NDArray[np.int64]


def rename(challenges: Path, folder: Path) -> Path:
    """Copy the batches under random names, once, with a table of the true names.

    Names cannot influence a run that reads such a copy. `truth_of` uses the table.
    """
    folder = folder.resolve()  # because the run records the folder
    table = folder / NAMES
    if not table.exists():
        names = {}
        for path in challenges.glob("challenge-*"):
            batch = json.loads(path.read_text())
            for image in batch["images"]:
                new = secrets.token_hex(16)
                names[new], image["name"] = image["name"], new
            write_json(folder / "challenges" / path.name, batch)
        write_json(table, names)
    return folder / "challenges"


def finish_run(
    run: Path,
    challenges: Path,
    *,
    user: str,
    seed: int,
    preset: str,
    settings: Sequence[str],
    progress: StageProgress | None = None,
) -> None:
    """Finish a run. Its finished stages are kept."""
    with progress or StageProgress() as shown:
        run_pipeline(
            run,
            Request(str(challenges), user, preset, seed, settings=tuple(settings)),
            progress=shown,
        )


def truth_of(run: Path) -> Callable[[str], str]:
    """A function that returns an image's true text by its name, also after `rename`."""
    recorded = read_run(run)
    true = puzzle_truth(recorded["user"])
    table = Path(recorded["challenges"]).parent / NAMES
    if not table.exists():
        return true
    names: dict[str, str] = json.loads(table.read_text())
    return lambda name: true(names[name])


def run_config(run: Path) -> RunConfig:
    """The configuration of a run."""
    return load_config(read_run(run)["config"])


def run_fabric(run: Path) -> Fabric:
    """The device, precision and threads that trained the reader of the run."""
    torch.set_num_threads(run_config(run).threads or core_count())
    precision: Any = manifests(run)["readings"]["precision"]
    return Fabric(accelerator="auto", devices=1, precision=precision)


@dataclass(frozen=True)
class RealCaptchas:
    """Some images of a run, with their true texts."""

    names: list[str]
    images: GreyImages
    """(N, H, W) ``uint8``."""
    texts: list[str]

    def take(self, chosen: Indices) -> "RealCaptchas":
        """Select the images at these indices."""
        return RealCaptchas(
            [self.names[n] for n in chosen], self.images[chosen], [self.texts[n] for n in chosen]
        )

    def judge(self, texts: Sequence[str], scheme: Scheme) -> Judgement:
        """Judge readings of these images, given in the same order."""
        truth = dict(zip(self.names, self.texts, strict=True))
        return judge(self.names, texts, truth, scheme.alphabet)


def load_real(run: Path) -> RealCaptchas:
    """Load all captchas of a run in content order, which is independent of their names."""
    names, images = load_images(CaptchaStore(run / "store"), run_config(run).scheme)
    true = truth_of(run)
    return RealCaptchas(names, images, [true(name) for name in names])


def load_challenges(challenges: Path, user: str, scheme: Scheme) -> RealCaptchas:
    """Load all captchas of a folder of batch files in content order, without a run."""
    found = []
    for path in challenges.glob("challenge-*"):
        for image in json.loads(path.read_text())["images"]:
            data = base64.b64decode(image["jpg_base64"])
            found.append((hashlib.sha256(data).digest(), image["name"], data))
    found.sort()
    true, names = puzzle_truth(user), [name for _, name, _ in found]
    images = np.stack([decode_scheme_image(data, scheme) for *_, data in found])
    return RealCaptchas(names, images, [true(name) for name in names])


def split(real: RealCaptchas, train: int, test: int, seed: int) -> tuple[RealCaptchas, ...]:
    """Draw disjoint training and test sets of these sizes by the seed.

    Raises:
        UsageError: There are too few images.
    """
    if train + test > len(real.names):
        raise UsageError(
            f"expected at least {train} + {test} images, the run has {len(real.names)}; "
            "give smaller --train and --test"
        )
    order = np.random.default_rng(seed).permutation(len(real.names))
    return real.take(order[:train]), real.take(order[train : train + test])


def labelled_stream(
    real: RealCaptchas, background: Background, scheme: Scheme, batch_size: int, seed: int
) -> LabelledStream:
    """Yield shuffled batches with true texts and light augmentation, epoch after epoch."""
    each_epoch = len(real.images) // batch_size
    if not each_epoch:
        raise UsageError(f"expected --train of at least {batch_size}, got {len(real.images)}")
    ids = torch.tensor([scheme.encode(text) for text in real.texts])

    def stream(first: int) -> Iterator[tuple[Tensor, Tensor]]:
        for number in itertools.count(first):
            epoch, within = divmod(number, each_epoch)
            order = np.random.default_rng([seed, epoch]).permutation(len(real.images))
            chosen = order[within * batch_size : (within + 1) * batch_size]
            normalised = torch.from_numpy(background.normalise(real.images[chosen]))
            generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
            yield augment(normalised, LIGHT, generator), ids[chosen]

    return stream


def judge_reader(
    reader: nn.Module, background: Background, scheme: Scheme, real: RealCaptchas
) -> Judgement:
    """Judge a reader on real images."""
    readings = read_images(reader, background, scheme, real.names, real.images)
    return real.judge([reading.text for reading in readings], scheme)


def judge_stage(run: Path, stage: str, real: RealCaptchas) -> Judgement:
    """Judge the reader of a run's stage. That of ``calibrate`` is the bootstrap recognizer."""
    reader, architecture = load_recognizer(run / stage / READER)
    reader = without_pose(reader, replace(architecture, pose=False))
    background = Background.load(run / "background" / "background.npz")
    return judge_reader(reader, background, run_config(run).scheme, real)


def figures(judgement: Judgement) -> dict[str, Any]:
    """The figures of a judgement for reports: shares in [0, 1] and the 95 % interval."""
    return {
        "images": judgement.images,
        "captcha_accuracy": judgement.captcha_accuracy,
        "captcha_interval": judgement.captcha_interval,
        "character_accuracy": judgement.character_accuracy,
    }
