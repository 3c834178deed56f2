"""All commands that README and docs cite as evidence: what they write, need and cost.

Costs are minutes of two cores. Where only TFLOP are known, a minute does 2.3 TFLOP, as the runs of
main_table_cpu did.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from simgan_captcha.errors import ConfigError
from simgan_captcha.simulator.wide.fonts import CATALOGUE, FontShelf


@dataclass(frozen=True)
class Evidence:
    """One piece of evidence, and how it is made."""

    name: str
    minutes: int
    commands: tuple[str, ...]
    """Scripts of this folder, which also get ``--out``, or ``simgan-captcha``. The words in braces
    are those of `bench_all.Bench.words`."""
    needs: tuple[str, ...] = ()
    """Keys of `NEEDS`."""
    after: tuple[str, ...] = ()
    """Earlier names whose runs or results this one uses."""
    results: tuple[str, ...] = ()
    """The results files without extension; by default one of this name."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "results", self.results or (self.name,))


def _has_puzzle(options: argparse.Namespace) -> bool:
    return any(options.data.glob("hackmit2017/challenges/challenge-*"))


def _has_families(options: argparse.Namespace) -> bool:
    return any(options.data.glob("families/*/labels.csv"))


def _has_rivals(options: argparse.Namespace) -> bool:
    return bool(shutil.which(options.rivals) and shutil.which("tesseract"))


def _has_generators(options: argparse.Namespace) -> bool:
    programs = (options.python or "no python was given", "node", "perl", "php")
    modules = Path(options.node_path, "svg-captcha")
    return bool(options.node_path) and modules.is_dir() and all(map(shutil.which, programs))


def _has_network(_: argparse.Namespace) -> bool:
    command = (sys.executable, "-m", "pip", "--retries", "0", "index", "versions", "pip")
    return subprocess.run(command, capture_output=True).returncode == 0


def _has_gpu(_: argparse.Namespace) -> bool:
    return torch.cuda.is_available()


def _has_log(options: argparse.Namespace) -> bool:
    return bool(options.log.is_file())


def _has_fonts(_: argparse.Namespace) -> bool:
    try:
        return bool(FontShelf(CATALOGUE, "held-out").entries)
    except ConfigError:
        return False


PUZZLE, FAMILIES = "the real captchas of 2017 (--data)", "the real families (--data)"
RIVALS = "the stock readers (--rivals, make rivals) and Tesseract"
GENERATORS = "the generators (--python, --node-path; perl, php)"
NETWORK, GPU = "the network", "a GPU"
LOG, FONTS = "the log of the pretraining (--log)", "the fonts of make pretrain-fonts"

NEEDS: Mapping[str, Callable[[argparse.Namespace], bool]] = {
    PUZZLE: _has_puzzle,
    FAMILIES: _has_families,
    RIVALS: _has_rivals,
    GENERATORS: _has_generators,
    NETWORK: _has_network,
    GPU: _has_gpu,
    LOG: _has_log,
    FONTS: _has_fonts,
}
"""How to see whether something that a command needs is here."""

_DRAWN = "--python {python} --node-path {node}"
_SERIF = "'captcha (PyPI), a-z0-9, serif, 4 to 6'"
_OF_PYPI = "{work}/families/captcha--PyPI---a-z0-9--serif--4-to-6"
_SIX = (
    "'captcha (PyPI), 4 digits' 'svg-captcha (npm), 4, one line' 'GD::SecurityImage (Perl), 5' "
    f"'Gregwar (PHP), 5' 'the puzzle, another user' {_SERIF}"
)

_FURTHER = (
    "'wheezy.captcha (PyPI), 4' 'django-simple-captcha (PyPI), 4' 'gvcode (PyPI), 5' "
    "'multicolorcaptcha (PyPI), 4' 'trek-captcha (npm), 5' 'ppfun-captcha (npm), 4' "
    "'captchapng (npm), 4'"
)


def _of_preset(preset: str, minutes: int) -> Evidence:
    command = f"main_table.py {{work}}/main --challenges {{challenges}} --preset {preset}"
    return Evidence(f"main_table_{preset}", minutes, (f"{command} --seeds 1 2 3",), (PUZZLE,))


def _families(name: str, minutes: int, families: str, preset: str = "quick") -> Evidence:
    work = "{work}/families" if preset == "quick" else f"{{work}}/families-{preset}"
    command = f"families.py {work} {_DRAWN} --name {name} --preset {preset} --families {families}"
    return Evidence(name, minutes, (command,), (GENERATORS,))


def _of_demo(name: str, minutes: int, options: str = "--run {work}/demo") -> Evidence:
    return Evidence(name, minutes, (f"{name}.py {options}",), after=("demo",))


TABLE = (
    Evidence("demo", 10, ("simgan-captcha demo {work}/demo --quiet", "demo_result.py {work}/demo")),
    _of_demo("simulator_rate", 1),
    _of_demo("training_rate", 2),
    _of_demo("labelling_rate", 3),
    _of_demo("picture_formats", 3, "{work}/demo"),
    _of_demo("scaling", 3),
    Evidence(
        "reading_rate",
        10,
        ("reading_rate.py --run {work}/demo --rivals {rivals}",),
        (RIVALS,),
        ("demo",),
    ),
    Evidence("puzzle_rate", 1, ("puzzle_rate.py",)),
    Evidence("light_install", 1, ("light_install.py",), (NETWORK,)),
    _of_preset("quick", 30),
    Evidence(
        "zero_shot",
        20,
        (
            "zero_shot.py {work}/zero-shot --families {families} --puzzle {challenges} "
            f"--rivals {{rivals}} {_DRAWN}",
        ),
        (PUZZLE, FAMILIES, RIVALS, GENERATORS),
        results=("zero_shot", "zero_shot_cost"),
    ),
    Evidence(
        "first_look",
        1,
        ("first_look.py {work}/zero-shot --families {families}",),
        (FAMILIES,),
        ("zero_shot",),
    ),
    Evidence(
        "real_families",
        36,
        ("real_families.py --families {families} --seeds 1 2 3",),
        (FAMILIES,),
        ("zero_shot",),
    ),
    Evidence("generalist", 1, ("generalist.py --log {log}",), (LOG, FONTS)),
    Evidence(
        "specialization", 15, ("specialization.py --families {families} --steps 150",), (FAMILIES,)
    ),
    _of_preset("cpu", 72),
    Evidence(
        "supervised_cpu",
        24,
        ("supervised.py --run {work}/main/cpu-1",),
        after=("main_table_cpu",),
    ),
    Evidence(
        "networks",
        25,
        ("networks.py --run {work}/main/cpu-1 --tflop 3",),
        after=("main_table_cpu",),
    ),
    Evidence(
        "renamed_readings",
        10,
        (
            "simgan-captcha run {work}/named --challenges {challenges} --user rickyhan "
            "--preset quick --seed 1 --quiet",
            "simgan-captcha judge {work}/named --user rickyhan",
            "compare_readings.py {work}/named {work}/main/quick-1",
        ),
        (PUZZLE,),
        ("main_table_quick",),
    ),
    _families("families", 95, _SIX),
    _families("families_further", 50, _FURTHER),
    _families("families_cpu", 35, _SERIF, "cpu"),
    _families("families_on_gradients", 15, "'captcha (PyPI), 4 digits, on gradients'"),
    _families(
        "families_several_fonts",
        16,
        "'Gregwar (PHP), 5' 'Gregwar (PHP), 5, said to have several fonts'",
    ),
    Evidence(
        "gregwar_parts",
        1,
        ("gregwar_parts.py {work}/families/Gregwar--PHP---5/run",),
        (GENERATORS,),
        ("families",),
    ),
    Evidence(
        "several_lengths",
        2,
        (f"several_lengths.py --family {_OF_PYPI} --tflop 2",),
        after=("families",),
    ),
    Evidence("few_images", 20, ("few_images.py --families {families}",), (FAMILIES,)),
    Evidence("digits", 10, ("digits.py {work}/digits",)),
    Evidence(
        "leave_one_shape_out_g",
        20,
        (
            "leave_one_shape_out.py {work}/shapes --challenges {challenges} --preset quick "
            "--character g",
        ),
        (PUZZLE,),
    ),
    Evidence(
        "accuracy_curve_quick",
        30,
        ("accuracy_curve.py {work}/curve --challenges {challenges} --preset quick",),
        (PUZZLE,),
    ),
    Evidence(
        "run_cost",
        60,
        ("run_cost.py a8a9182 HEAD --work {work}/run-cost --challenges {challenges}",),
        (PUZZLE,),
    ),
    Evidence("estimate_calibration", 60, ("estimate_calibration.py",), (FONTS,)),
    Evidence(
        "teach_curve",
        288,
        ("teach_curve.py --families {families} --work {work}/teach --seeds 1 2 3",),
        (FAMILIES,),
    ),
    Evidence("gpu", 10, ("gpu.py {work}/gpu --challenges {challenges}",), (PUZZLE, GPU)),
    Evidence(
        "simgan_table",
        700,
        ("simgan_table.py {work}/simgan --challenges {challenges}",),
        (PUZZLE,),
    ),
    Evidence(
        "original_story_cpu",
        1960,
        ("original_story.py {work}/story --challenges {challenges}",),
        (PUZZLE,),
    ),
)
"""In the order in which they run. What others come after stands before them."""

HISTORY = (
    "families_by_widths",
    "families_digits",
    "families_four_to_six_before",
    "families_least_squares",
    "families_named",
    "families_not_self_trained",
    "families_on_textures",
    "families_removed_lines",
    "families_simulator_alone",
    "families_svg_before",
    "families_textures_told",
    "families_told",
    "families_waves",
    "refiner_ablation",
)
"""Results of earlier versions that docs/experiments.md cites, and that no command repeats."""
