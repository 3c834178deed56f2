"""The report's section on the accuracy against labels."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from simgan_captcha.documents import Json
from simgan_captcha.pipeline.run_folder import JUDGEMENT
from simgan_captcha.report import charts
from simgan_captcha.report.inputs import as_number, of_these_readings

_SHOWN = 24
"""Number of wrong readings shown."""
_CONFUSED_CHARACTERS = 40
"""Maximum number of characters in the confusion matrix: those with the most confusions."""


def judged_section(
    folder: Path, picture: Callable[[str], str | None], damage: list[str]
) -> Json | None:
    """Figures and charts of ``judge/judgement.json``; None if the run was not judged.

    Args:
        folder: Folder of the run.
        picture: Returns the address of a captcha's picture by its name, or None.
        damage: Receives a message for the user if the judgement cannot be used.
    """
    path = folder / JUDGEMENT
    judgement = of_these_readings(path, folder, damage)
    if judgement is None:
        return None
    try:
        matrix: dict[str, dict[str, int]] = judgement["confusion_matrix"]
        return {
            "figures": _judged_figures(judgement),
            "worst": _worst_characters(judgement["per_character"], matrix),
            "matrix": _matrix_chart(matrix),
            "commonest": ", ".join(
                f"{c['truth']} read as {c['read']}" for c in judgement["confusions"][:5]
            ),
            "reliability": (
                charts.reliability(
                    [
                        (b["confidence"], b["accuracy"], b["images"])
                        for b in judgement["calibration"]
                    ]
                )
                if judgement["calibration"]
                and as_number(judgement["expected_calibration_error"]) is not None
                else None
            ),
            "wrong": [
                {
                    "uri": picture(wrong["name"]),
                    "truth": str(wrong["truth"]),
                    "read": str(wrong["read"]),
                    "confidence": as_number(wrong["confidence"]),
                }
                for wrong in judgement["wrong"][:_SHOWN]
            ],
        }
    except (LookupError, TypeError, ValueError, AttributeError):
        damage.append(
            f"{path} is not what simgan-captcha judge writes; judge the run again to see figures"
        )
        return None


def _judged_figures(judgement: Json) -> Json:
    shares = ("captcha_accuracy", "character_accuracy")
    intervals = ("captcha_interval", "character_interval")
    counts = ("images", "unlabelled", "unread", "wrong_length")
    return {
        **{key: float(judgement[key]) for key in shares},
        **{key: [float(judgement[key][0]), float(judgement[key][1])] for key in intervals},
        **{key: int(judgement[key]) for key in counts},
        "per_position": [float(share) for share in judgement["per_position"]],
        "expected_calibration_error": as_number(judgement["expected_calibration_error"]),
    }


def _worst_characters(
    per_character: dict[str, Json], matrix: dict[str, dict[str, int]]
) -> list[Json]:
    occurring = [(c, score) for c, score in per_character.items() if score["total"]]
    occurring.sort(key=lambda item: (item[1]["accuracy"], -item[1]["total"]))
    return [
        {
            "character": character,
            "accuracy": float(score["accuracy"]),
            "total": int(score["total"]),
            "taken_for": [
                (read, count)
                for read, count in Counter(matrix.get(character, {})).most_common(4)
                if read != character
            ][:3],
        }
        for character, score in occurring[:10]
    ]


def _matrix_chart(matrix: dict[str, dict[str, int]]) -> str | None:
    mistakes: Counter[str] = Counter()
    for true, row in matrix.items():
        for read, count in row.items():
            if read != true:
                mistakes[true] += count
                mistakes[read] += count
    if not mistakes:
        return None
    everything = {*matrix, *mistakes}
    chosen = sorted(sorted(everything, key=lambda c: -mistakes[c])[:_CONFUSED_CHARACTERS])
    totals = {true: sum(row.values()) for true, row in matrix.items()}
    return charts.confusion_matrix(
        chosen,
        [
            [matrix.get(true, {}).get(read, 0) / max(1, totals.get(true, 0)) for read in chosen]
            for true in chosen
        ],
    )
