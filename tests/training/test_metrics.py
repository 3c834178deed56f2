import json
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from simgan_captcha.training.metrics import MetricsLog


def rows(folder: Path) -> list[dict[str, float | None]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_metrics_continue_after_the_resumed_step(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        for step in range(1, 6):
            log.log(step, loss=1 / step)
            assert rows(tmp_path)[-1] == {"step": step, "loss": 1 / step}  # seen at once
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # an incomplete line after a kill
    with MetricsLog(tmp_path, resume_step=3) as log:
        log.log(4, loss=9.0)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4]
    assert rows(tmp_path)[-1]["loss"] == 9.0
    with MetricsLog(tmp_path, resume_step=10):
        assert len(rows(tmp_path)) == 4


def test_a_new_log_deletes_earlier_metrics(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        log.log(1, loss=1.0)
    with MetricsLog(tmp_path) as log:
        log.log(1, loss=float("nan"))
    assert rows(tmp_path) == [{"step": 1, "loss": None}]
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1


def test_tensorboard_holds_the_same_scalars(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        for step in range(1, 4):
            log.log(step, loss=step / 2)
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    assert [(e.step, e.value) for e in board.Scalars("loss")] == [(1, 0.5), (2, 1.0), (3, 1.5)]
