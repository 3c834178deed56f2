"""Exported readers that others wrote or changed: refused when they are loaded, in one line."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from simgan_captcha._version import FORMAT
from simgan_captcha.errors import RunError
from simgan_captcha.inference.exported import METADATA, load_exported
from simgan_captcha.inference.onnx_file import require_safe
from simgan_captcha.inference.reader import Reader
from simgan_captcha.inference.readings import require_probabilities
from simgan_captcha.recognizer.export import export_reader
from simgan_captcha.recognizer.network import RecognizerArchitecture, build_recognizer
from tests.small_run import SCHEME, draw_captchas, shaded

WIDTH, HEIGHT, LENGTH = SCHEME.width, SCHEME.height, SCHEME.max_length
CLASSES = SCHEME.classes
DESCRIBED: dict[str, Any] = {
    "format": FORMAT,
    "version": "1",
    "scheme": SCHEME.model_dump(mode="json"),
    "taught_labels": 0,
    "images": None,
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    architecture = RecognizerArchitecture(HEIGHT, WIDTH, LENGTH, 4, channels=(4, 4, 4, 4, 8))
    path = tmp_path_factory.mktemp("exported") / "reader.onnx"
    images = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    export_reader(path, build_recognizer(architecture).eval(), shaded(), SCHEME, images)
    return path.read_bytes()


def refused(model: onnx.ModelProto | bytes, message: str) -> None:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    with pytest.raises(RunError, match=message) as said:
        load_exported(data, 1)
    assert "export it again" in str(said.value)
    assert len(str(said.value)) < 1500


def described(model: onnx.ModelProto, values: Any) -> None:
    del model.metadata_props[:]
    text = values if isinstance(values, str) else json.dumps(values)
    helper.set_model_props(model, {METADATA: text})


def of_scheme(**change: Any) -> dict[str, Any]:
    return {**DESCRIBED, "scheme": {**DESCRIBED["scheme"], **change}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"version": "1", "scheme": DESCRIBED["scheme"]}, "another version .* wrote it"),
        ({**DESCRIBED, "format": FORMAT + 1}, "another version .* wrote it"),
        ({**DESCRIBED, "version": None}, "which version wrote it"),
        ({**DESCRIBED, "taught_labels": None}, "how many labels"),
        ({**DESCRIBED, "version": 3}, "which version wrote it"),
        ({**DESCRIBED, "scheme": None}, "holds no scheme"),
        ({**DESCRIBED, "scheme": []}, "holds no scheme"),
        ("[" * 100_000, "nested"),
        ("null", "JSON object"),
        (of_scheme(alphabet="abc"), "its scheme needs"),
        (of_scheme(alphabet="abc123"), "its scheme needs"),
        (of_scheme(length=24), "its scheme needs"),
        (of_scheme(width=50), "its scheme needs"),
        (of_scheme(length=True), "holds no scheme"),
        ({**DESCRIBED, "images": [1]}, "no ranges of its images"),
        ({**DESCRIBED, "images": {"aspect_ratio": [2, 1]}}, "no range of aspect_ratio"),
    ],
)
def test_metadata_must_fit(exported: bytes, values: Any, message: str) -> None:
    model = onnx.load_from_string(exported)
    described(model, values)
    refused(model, message)


def made(
    ids: Callable[[str], list[onnx.NodeProto]],
    confidence: Callable[[str], list[onnx.NodeProto]],
    *constants: onnx.TensorProto,
    given: int = LENGTH,
    shape: tuple[Any, ...] = ("n", LENGTH),
    image: tuple[Any, ...] = ("n", HEIGHT, WIDTH),
) -> onnx.ModelProto:
    """A network that gives what it is asked to, from the mean of the image, (n, 1).

    Its probabilities are uniform.
    """
    means = [
        helper.make_node("Cast", ["images"], ["grey"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["grey"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Slice", ["mean", "zero", "length", "one"], ["each"]),
    ]
    uniform = [
        helper.make_node("Unsqueeze", ["each", "last"], ["each, 1"]),
        helper.make_node("Mul", ["each, 1", "none"], ["each none"]),
        helper.make_node("Add", ["each none", "uniform"], ["probabilities"]),
    ]
    numbers = {"zero": [0], "length": [given], "one": [1], "last": [2]}
    graph = helper.make_graph(
        [*means, *ids("each"), *confidence("each"), *uniform],
        "reader",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, image)],
        [
            helper.make_tensor_value_info("ids", TensorProto.INT64, shape),
            helper.make_tensor_value_info("confidence", TensorProto.FLOAT, shape),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, (*shape, CLASSES)),
        ],
        [
            *(numpy_helper.from_array(np.array(v, np.int64), k) for k, v in numbers.items()),
            numpy_helper.from_array(np.full(CLASSES, 1 / CLASSES, np.float32), "uniform"),
            *constants,
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    described(model, DESCRIBED)
    return model


def constant(name: str, value: float, kind: int) -> Callable[[str], list[onnx.NodeProto]]:
    """So much for each character of each image."""

    def nodes(each: str) -> list[onnx.NodeProto]:
        of_value = helper.make_tensor("", TensorProto.FLOAT, [1], [value])
        return [
            helper.make_node("Constant", [], [f"{name} value"], value=of_value),
            helper.make_node("Mul", [each, "none"], [f"{name} none"]),
            helper.make_node("Add", [f"{name} none", f"{name} value"], [f"{name} sum"]),
            helper.make_node("Cast", [f"{name} sum"], [name], to=kind),
        ]

    return nodes


NONE = numpy_helper.from_array(np.zeros(1, np.float32), "none")


def giving(ids: float, confidence: float, **options: Any) -> onnx.ModelProto:
    return made(
        constant("ids", ids, TensorProto.INT64),
        constant("confidence", confidence, TensorProto.FLOAT),
        NONE,
        **options,
    )


def test_a_network_with_valid_output_is_accepted() -> None:
    exported = load_exported(giving(1, 0.5).SerializeToString(), 1)
    ids, confidence = exported.recognize(np.zeros((3, HEIGHT, WIDTH), np.uint8))
    assert ids.tolist() == [[1] * LENGTH] * 3
    assert confidence.tolist() == [[0.5] * LENGTH] * 3
    probabilities = exported.probabilities(np.zeros((3, HEIGHT, WIDTH), np.uint8))
    assert probabilities.shape == (3, LENGTH, CLASSES)
    assert probabilities.max() == pytest.approx(1 / CLASSES)


@pytest.mark.parametrize(
    ("ids", "confidence", "message"),
    [
        (-5, 0.5, "class ids from 0 to 3"),
        (4, 0.5, "class ids from 0 to 3"),
        (1, 2401.0, "confidences from 0 to 1"),
        (1, -0.5, "confidences from 0 to 1"),
        (1, float("nan"), "confidences from 0 to 1"),
        (1, float("inf"), "confidences from 0 to 1"),
    ],
)
def test_impossible_output_is_refused(ids: float, confidence: float, message: str) -> None:
    refused(giving(ids, confidence), message)


@pytest.mark.parametrize(
    "options",
    [
        {"given": LENGTH + 1, "shape": ("n", LENGTH + 1)},
        {"given": LENGTH + 1, "shape": ("n", "characters")},
        {"given": LENGTH + 1},
        {"image": ("n", HEIGHT)},
        {"image": ("n", HEIGHT, WIDTH, 3)},
        {"image": (1, HEIGHT, WIDTH)},
        {"image": ("n", WIDTH, HEIGHT)},
    ],
)
def test_shapes_must_fit(options: dict[str, Any]) -> None:
    refused(giving(1, 0.5, **options), "could not load it")


def test_probabilities_must_be_distributions() -> None:
    each = np.full((2, LENGTH, SCHEME.classes), 1 / SCHEME.classes, np.float32)
    assert require_probabilities(SCHEME, each, 2) is each
    for wrong in (each[:1], each[..., :-1], each * 2, each * np.nan, each - 1, each[0]):
        with pytest.raises(RunError, match=r"probabilities with the sum 1.*export it again"):
            require_probabilities(SCHEME, wrong, 2)


def test_tensors_that_are_larger_than_their_data_are_refused() -> None:
    model = giving(1, 0.5)
    model.graph.initializer.append(
        TensorProto(name="huge", data_type=TensorProto.FLOAT, dims=[100_000, 100_000])
    )
    refused(model, "larger than its data")


def test_small_files_that_request_much_memory_are_refused() -> None:
    model = giving(1, 0.5)
    shape = numpy_helper.from_array(np.array([1 << 18, 1 << 17], np.int64), "shape")
    model.graph.initializer.append(shape)
    model.graph.node.append(helper.make_node("Expand", ["none", "shape"], ["much"]))
    refused(model, "asks for a tensor of")


@pytest.mark.parametrize("operator", ["ConstantOfShape", "Loop", "If", "Scan", "Range", "Tile"])
def test_unexpected_operators_are_refused(operator: str) -> None:
    model = giving(1, 0.5)
    model.graph.node.append(helper.make_node(operator, ["none"], ["x"]))
    refused(model, f"operators that no reader has: {operator}")


def test_functions_and_other_domains_are_refused() -> None:
    model = giving(1, 0.5)
    model.graph.node.append(helper.make_node("Add", ["none"], ["x"], domain="evil"))
    refused(model, "operators of evil")
    model = giving(1, 0.5)
    model.functions.add(name="f")
    refused(model, "functions of its own")


def test_weights_in_other_files_are_refused() -> None:
    model = giving(1, 0.5)
    tensor = TensorProto(name="x", data_type=TensorProto.FLOAT, dims=[1], data_location="EXTERNAL")
    tensor.external_data.add(key="location", value="/etc/passwd")
    model.graph.initializer.append(tensor)
    refused(model, "another file|larger than its data")


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), cut=st.booleans())
def test_any_damage_is_refused_or_reads(exported: bytes, at: float, byte: int, cut: bool) -> None:
    place = int(at * len(exported))
    rest = b"" if cut else exported[place + 1 :]
    with contextlib.suppress(RunError):
        load_exported(exported[:place] + bytes([byte]) + rest, 1)


@given(st.binary(max_size=200))
def test_any_bytes_are_inspected_safely(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        require_safe(data)


def test_a_reader_checks_the_output_of_its_file(tmp_path: Path, exported: bytes) -> None:
    path = tmp_path / "reader.onnx"
    path.write_bytes(exported)
    assert Reader(path).read([data for data, _ in draw_captchas(3)])
    path.write_bytes(giving(-5, 0.5).SerializeToString())
    with pytest.raises(RunError, match="class ids"):
        Reader(path)
