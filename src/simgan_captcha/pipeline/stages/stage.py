"""What a stage is: one row of the table in `graph`. This module needs no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from simgan_captcha.config.settings import RunConfig
from simgan_captcha.types import OnStep

if TYPE_CHECKING:
    from simgan_captcha.pipeline.manifest import StageOutcome
    from simgan_captcha.pipeline.run_data import RunData

Route = Literal["generalist", "simulator"]
"""What the recognizer learns from: texts of the generalist, or images of the simulator."""


class Work(NamedTuple):
    """The work of a stage and its planned cost."""

    run: "Callable[[RunData, Path, OnStep], StageOutcome]"
    """Does the work in the stage's folder, and continues that of an interrupted process. Several
    processes call it together if the stage trains."""
    planned_flops: Callable[[RunConfig, float], int] = lambda config, unsure: 0
    """Floating-point operations of training. The second argument is the share of real characters
    with low confidence before the adaptation."""


class Training(NamedTuple):
    """One training of a stage."""

    folder: str
    """Folder of its metrics, in the stage's folder."""
    steps: int


@dataclass(frozen=True)
class Stage:
    """One row of the table."""

    name: str
    """Also the name of its folder."""
    title: str
    """Name for people."""
    work: Callable[[], Work]
    """Imports and returns the work."""
    inputs: Callable[[RunConfig], tuple[str, ...]] = lambda config: ()
    """Names of the stages whose output it uses, if the run has them."""
    settings: Callable[[RunConfig], dict[str, Any]] | None = None
    """The settings that determine its output. None for a stage that runs at every start and is
    identified by the images that it stores."""
    seeded: bool = True
    """Whether its output also depends on the seed and the precision."""
    included: Callable[[RunConfig], bool] = lambda config: True
    """Whether a run with this configuration has the stage."""
    trainings: Callable[[RunConfig], tuple[Training, ...]] = lambda config: ()
    """Its trainings, in order. A stage with trainings runs on all processes together."""
    curves: bool = False
    """Whether its metrics are shown as learning curves."""
    recognizer: bool = False
    """Whether it saves a recognizer that may read the run's images."""
    route: Route | None = None
    """The route that it belongs to. It is left out if the other route comes first and gives a
    recognizer that is good enough, see `left_out`."""
    only_first: bool = False
    """Whether a run has it only if its route comes first."""
    improves: bool = False
    """Whether it improves the recognizer of its route. If this route comes first, it is left out
    where the recognizer is poor or needs no improvement."""
