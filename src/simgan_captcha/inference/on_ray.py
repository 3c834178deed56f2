"""Labels partitions on a Ray cluster, with one recognizer for each core."""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from simgan_captcha.errors import RunError, SimganCaptchaError
from simgan_captcha.extras import needing
from simgan_captcha.inference.constraints.texts import NONE, Constraints
from simgan_captcha.inference.label import Labelled, MakeReader, label_partition
from simgan_captcha.inference.partitions import Partition, kept_reader
from simgan_captcha.inference.reader import Reader


class _Labeller:
    """A reader on one core of a node. Ray restarts it if the node or process is lost."""

    def __init__(self, out: str, make: MakeReader, constraints: Constraints) -> None:
        self.reader, self.out = make(kept_reader(out), threads=1), out
        self.constraints = constraints

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            partition = Partition(**row)
            labelled = asdict(label_partition(self.reader, partition, self.out, self.constraints))
            return labelled | {"reasons": json.dumps(labelled["reasons"]), "error": ""}
        except SimganCaptchaError as error:  # Ray would add a traceback
            return {"rows": 0, "unreadable": 0, "reasons": "{}", "error": str(error)}


def label_on_ray(
    pending: Sequence[Partition],
    out: str,
    make: MakeReader = Reader,
    constraints: Constraints = NONE,
) -> Iterator[Labelled]:
    """Label partitions in any order, on the cluster at ``RAY_ADDRESS`` or on a local one.

    Each part is written atomically under a fixed name. Partitions of lost workers are therefore
    repeated, and no part is duplicated. Every node must reach the inputs and ``out`` under the same
    names.

    Raises:
        MissingExtraError: Ray is not installed.
        RunError: A partition cannot be labelled, or the connection to the cluster is lost.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray sends usage data by default
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
            fn_constructor_args=(out, make, constraints),
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
            "command again: finished partitions are kept"
        ) from None
    finally:
        ray.shutdown()
