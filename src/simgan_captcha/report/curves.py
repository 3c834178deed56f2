"""Learning curves of a stage, for the report and the run page."""

from pathlib import Path

from simgan_captcha.documents import Json
from simgan_captcha.pipeline.stages.stage import Stage
from simgan_captcha.report import charts
from simgan_captcha.report.inputs import read_metrics
from simgan_captcha.training.metrics import FILE_NAME

_SHARE_WORDS = {"accuracy", "rate", "confidence", "share", "agreement", "fraction", "kept"}


def curve_group(folder: Path, stage: Stage, damage: list[str]) -> Json:
    """Title and charts of one stage's ``metrics.jsonl``, for `sections.html`.

    Args:
        folder: Folder of the run.
        stage: A stage with ``curves``.
        damage: Receives a message for the user about each unusable file or line.
    """
    panels: dict[str, dict[str, charts.Curve]] = {}
    for key, curve in read_metrics(folder / stage.name / FILE_NAME, damage).items():
        panels.setdefault(_panel(key, curve), {})[key] = curve
    return {
        "title": stage.title,
        "panels": [
            {
                "caption": caption,
                "uri": charts.curves(panels[caption], share=caption == "Accuracies and rates"),
                "alt": _curves_in_words(panels[caption]),
            }
            for caption in ("Losses", "Accuracies and rates", "Learning rate")
            if caption in panels
        ],
    }


def _panel(key: str, curve: charts.Curve) -> str:
    if "learning_rate" in key or key == "lr":
        return "Learning rate"
    share = _SHARE_WORDS & set(key.split("_")) and all(0 <= v <= 1 for _, v in curve)
    return "Accuracies and rates" if share else "Losses"


def _curves_in_words(series: dict[str, charts.Curve]) -> str:
    return "; ".join(
        f"{name.replace('_', ' ')} from {curve[0][1]:.3g} at step {curve[0][0]:.0f} "
        f"to {curve[-1][1]:.3g} at step {curve[-1][0]:.0f}"
        for name, curve in series.items()
    )
