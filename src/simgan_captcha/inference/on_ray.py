"""The same on a Ray cluster: Ray Data hands partitions to readers, one a core."""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from simgan_captcha.errors import RunError, SimganCaptchaError
from simgan_captcha.extras import needing
from simgan_captcha.inference.label import Labelled, label_partition
from simgan_captcha.inference.partitions import Partition, kept_reader
from simgan_captcha.inference.reader import Reader


class _Labeller:
    """A reader on a core of some node; Ray starts it again where a node or process is lost."""

    def __init__(self, out: str) -> None:
        self.reader, self.out = Reader(kept_reader(out), threads=1), out

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            labelled = asdict(label_partition(self.reader, Partition(**row), self.out))
            return labelled | {"reasons": json.dumps(labelled["reasons"]), "error": ""}
        except SimganCaptchaError as error:  # Ray would wrap it into a traceback
            return {"rows": 0, "unreadable": 0, "reasons": "{}", "error": str(error)}


def label_on_ray(pending: Sequence[Partition], out: str) -> Iterator[Labelled]:
    """Partitions in any order, on the cluster at ``RAY_ADDRESS``, or on one started here.

    A part is written whole or not at all, under one name: so what a lost worker had begun is done
    again, and nothing twice. Every node must reach the inputs and ``out`` under their names.

    Raises:
        MissingExtraError: Ray is not installed.
        RunError: A partition cannot be labelled, or the cluster is lost.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it tells its makers otherwise
    with needing("dist", "--engine ray"):
        import ray
        import ray.data
        import ray.exceptions
    if not pending:
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if "RAY_ADDRESS" not in os.environ:
        options |= {"address": "local", "_node_ip_address": "127.0.0.1"}
    ray.init(**options)
    try:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
        labelled = ray.data.from_items(
            [asdict(partition) for partition in pending], override_num_blocks=len(pending)
        ).map(
            _Labeller,
            fn_constructor_args=(out,),
            compute=ray.data.ActorPoolStrategy(size=min(cores, len(pending))),
            num_cpus=1,
        )
        for row in labelled.iter_rows():
            if row["error"]:
                raise RunError(row["error"])
            yield Labelled(row["rows"], row["unreadable"], json.loads(row["reasons"]))
    except ray.exceptions.RayError as error:
        raise RunError(
            f"the Ray cluster did not finish ({str(error).strip().splitlines()[-1]}); run the same "
            "command again: what was done is kept"
        ) from None
    finally:
        ray.shutdown()
