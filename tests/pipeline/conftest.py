from pathlib import Path

import pytest

from tests.small_run import draw_captchas, write_challenges


@pytest.fixture(scope="module")
def sixty_captchas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of batches with 60 small captchas."""
    folder = tmp_path_factory.mktemp("challenges") / "batches"
    write_challenges(folder, draw_captchas(60))
    return folder
