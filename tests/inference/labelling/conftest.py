"""An exported reader that labels."""

from pathlib import Path

import pytest

from simgan_captcha.recognizer.export import export_reader
from tests.inference.test_reader import GREY, NETWORK
from tests.small_run import SCHEME, shaded


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "reader.onnx"
    export_reader(path, NETWORK, shaded(), SCHEME, GREY)
    return path
