"""Writes the generalist's weights as the two files that the package ships.

    python -m simgan_captcha.generalist.pretraining.export FOLDER/best.safetensors OUT

``generalist.safetensors`` holds the weights in half precision for training; ``generalist.onnx``
holds the same in half precision, which ONNX Runtime widens when it loads them, for reading.
"""

import argparse
import json
import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from simgan_captcha.atomic import write_bytes
from simgan_captcha.generalist.features import CHANNELS, HEIGHT, STRIDE
from simgan_captcha.generalist.network import Generalist, in_halves, load_generalist
from simgan_captcha.training.checkpoint import save_weights

_TOLERANCE = 2e-2
"""By how much logits of the two runtimes may differ; weights are rounded to half precision."""


class _Columns(nn.Module):
    """The network with its outputs as a plain pair."""

    def __init__(self, network: Generalist) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        output = self.network(images)
        return output.logits, output.geometry


def export_generalist(weights: Path, out: Path, made_by: str = "") -> float:
    """Write both files; returns the largest difference of a logit between the two runtimes.

    Args:
        weights: A file that `pretraining` wrote, in half precision.
        out: Folder of the files.
        made_by: Command and commits that made the weights, for their description.

    Raises:
        RuntimeError: ONNX Runtime computes something else.
    """
    network, description = load_generalist(weights)
    description = {**description, **({"made_by": made_by} if made_by else {})}
    save_weights(out / "generalist.safetensors", in_halves(network), description)
    model = _to_onnx(_Columns(network).eval())
    _store_half(model)
    helper.set_model_props(model, {"simgan_captcha": json.dumps({"generalist": description})})
    difference = _difference(network, model)
    if difference > _TOLERANCE:
        raise RuntimeError(f"expected equal logits, they differ by {difference}")
    write_bytes(out / "generalist.onnx", model.SerializeToString())
    return difference


def _to_onnx(network: nn.Module) -> onnx.ModelProto:
    columns = torch.export.Dim("columns", min=4, max=256)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (torch.zeros(2, CHANNELS, HEIGHT, 32 * STRIDE),),
            input_names=["images"],
            output_names=["logits", "geometry"],
            dynamic_shapes={
                "images": {0: torch.export.Dim("images", min=1, max=1024), 3: STRIDE * columns}
            },
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.optimize()
    return program.model_proto


def _store_half(model: onnx.ModelProto) -> None:
    """Weights of more than 256 values in half precision, each widened by a Cast node."""
    graph, casts = model.graph, []
    for initializer in list(graph.initializer):
        values = numpy_helper.to_array(initializer)
        if values.dtype != np.float32 or values.size <= 256:
            continue
        name = initializer.name
        stored = numpy_helper.from_array(values.astype(np.float16), f"{name}_half")
        initializer.CopyFrom(stored)
        casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _difference(network: Generalist, model: onnx.ModelProto) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    generator, largest = torch.Generator().manual_seed(1), 0.0
    for count, width in ((1, 64), (3, 132)):
        images = torch.randn(count, CHANNELS, HEIGHT, width, generator=generator)
        logits, _ = session.run(None, {"images": images.numpy()})
        with torch.no_grad():
            expected = network(images).logits
        largest = max(largest, float((torch.from_numpy(logits) - expected).abs().max()))
    return largest


def main() -> None:
    """Export from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--made-by", default="", help="command and commits that made the weights")
    options = parser.parse_args()
    difference = export_generalist(options.weights, options.out, options.made_by)
    print(f"largest difference of a logit: {difference:.2g}")
    for file in sorted(options.out.glob("generalist.*")):
        print(f"{file}: {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
