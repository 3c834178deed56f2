"""Checks the operators and tensor sizes of an ONNX file before a runtime loads it.

Runtimes fold constants while they load a file, so 200 bytes can request a tensor of 40 GB or an
endless loop. ONNX files are protocol buffers. Only the necessary fields are parsed,
so the package ``onnx`` is not needed.
"""

import math
from collections.abc import Iterator

_OPERATORS = """
    Abs Add And ArgMax AveragePool BatchNormalization Cast Clip Concat Constant Conv Cos CumSum
    DequantizeLinear Div Dropout Einsum Equal Erf Exp Expand Flatten Floor Gather Gemm
    GlobalAveragePool Greater GreaterOrEqual Identity Less LessOrEqual Log MatMul Max MaxPool Mean
    Min Mul Neg Not Or Pad Pow QuantizeLinear Reciprocal ReduceMax ReduceMean ReduceMin ReduceSum
    Relu Reshape Shape Sigmoid Sin Slice Softmax Softplus Split Sqrt Squeeze Sub Sum Tanh Transpose
    Unsqueeze Where
"""
OPERATORS = frozenset(_OPERATORS.split())
"""Operators of recognizers. None has loops or branches; only shapes can make outputs large."""

_MOST_ELEMENTS = 1 << 28
"""Maximum number of elements of a tensor whose shape is in the file."""
_SHAPE_LENGTH = 8
_SENTINEL = 1 << 62
"""Larger numbers mean "no end", as in a slice."""
_INT32, _INT64 = 6, 7


def require_safe(data: bytes) -> None:
    """Check the operators and tensors of an ONNX file.

    Raises:
        ValueError: The file is not ONNX, has an unexpected operator, or has a tensor that is larger
            than its data.
    """
    operators = set[str]()
    graphs = 0
    for number, value in _fields(memoryview(data)):
        if number == 25:
            raise ValueError("it has functions of its own")
        if number != 7 or isinstance(value, int):
            continue
        graphs += 1
        for part, content in _fields(value):
            if isinstance(content, int):
                continue
            if part == 1:
                operators.add(_checked_operator(content))
            elif part == 5:
                _check_tensor(content)
            elif part == 15:
                raise ValueError("it has sparse tensors")
    if graphs != 1:
        raise ValueError(f"it has {graphs} networks")
    if unknown := sorted(operators - OPERATORS):
        raise ValueError(f"it has operators that no reader has: {', '.join(unknown[:5])[:100]}")


def _checked_operator(data: memoryview) -> str:
    """The operator of a node, whose attributes are checked."""
    operator = ""
    for number, value in _fields(data):
        if isinstance(value, int):
            continue
        if number == 4:
            operator = _text(value)
        elif number == 7 and _text(value) not in ("", "ai.onnx"):
            raise ValueError(f"it has operators of {_text(value)[:50]}")
        elif number == 5:
            for part, content in _fields(value):
                if part in (6, 11, 22, 23):
                    raise ValueError("it has networks or sparse tensors within operators")
                if part in (5, 10) and not isinstance(content, int):
                    _check_tensor(content)
    return operator


def _check_tensor(data: memoryview) -> None:
    dims: list[int] = []
    kind, raw, numbers = 0, None, list[int]()
    for number, value in _fields(data):
        if number == 1:
            dims += _integers(value)
        elif number == 2 and isinstance(value, int):
            kind = value
        elif number == 7:
            numbers += _integers(value)
        elif number == 9 and not isinstance(value, int):
            raw = value
        elif number in (13, 14) and value != 0:
            raise ValueError("its weights lie in another file")
    if any(size < 0 for size in dims) or math.prod(dims) > 2 * len(data):
        raise ValueError(f"a tensor of {dims[:8]} is larger than its data")
    if kind not in (_INT32, _INT64) or math.prod(dims) > _SHAPE_LENGTH:
        return
    if raw is not None:
        width = 4 if kind == _INT32 else 8
        numbers = [
            int.from_bytes(raw[at : at + width], "little", signed=True)
            for at in range(0, len(raw), width)
        ]
    if math.prod(n for n in numbers if 0 < n < _SENTINEL) > _MOST_ELEMENTS:
        raise ValueError(f"it asks for a tensor of {numbers[:8]}")


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Numbers and values of a message's fields."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError("it is no ONNX")
        if at + size > len(data):
            raise ValueError("it ends too early")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("it ends too early")
        byte, at = data[at], at + 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("it is no ONNX")


def _integers(value: int | memoryview) -> list[int]:
    """Signed integers of a repeated field, packed or not."""
    if isinstance(value, int):
        return [_signed(value)]
    numbers, at = list[int](), 0
    while at < len(value):
        number, at = _varint(value, at)
        numbers.append(_signed(number))
    return numbers


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _text(value: memoryview) -> str:
    return bytes(value).decode("utf-8", "replace")
