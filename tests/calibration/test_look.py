"""One calibration round corrects errors of the bootstrap recognizer."""

from dataclasses import replace

import numpy as np
import pytest

from simgan_captcha.calibration.drawing.poses import Poses
from simgan_captcha.calibration.glyph_fit import GlyphFit
from simgan_captcha.calibration.look import ShapeSearch
from simgan_captcha.simulator.pose import POSE
from simgan_captcha.simulator.settings import SimulatorSettings
from simgan_captcha.types import FloatImages
from tests.calibration.scene import LETTERS, disturbed, first_of, many_sizes, scene

FONTS = SimulatorSettings(fonts=("stix-bold", "roboto-black", "dejavu-sans-bold"), size=(20, 26))


def look(
    normalised: FloatImages, seen: Poses, *, waves: bool = False
) -> tuple[GlyphFit, list[str]]:
    scheme = LETTERS.model_copy(update={"wavy_baseline": waves})
    search = ShapeSearch(normalised, scheme, FONTS, 0, epochs=12, on_epoch=lambda *_: None)
    return search.find(seen, None, formed=False)


@pytest.mark.parametrize("waves", [False, True])
def test_classes_are_balanced_and_forms_are_found(waves: bool) -> None:
    normalised, poses, sizes = many_sizes()
    told = poses.probabilities + 1e-7
    # Every 'a' is confidently read as 'g', with some probability of an 'a'.
    told[poses.ids == 0] = [1e-4, 1, *[1e-9] * 4]
    seen = replace(poses, probabilities=(told / told.sum(-1, keepdims=True)).astype(np.float32))
    fit, doubts = look(normalised, seen, waves=waves)
    assert (seen.ids == poses.ids).mean() < 0.9
    assert (fit.poses.ids == poses.ids).mean() > 0.97
    assert not doubts
    # Bends are only fitted if the scheme has waves.
    assert fit.poses.places[..., POSE.index("bend")].any() == waves
    found = fit.poses.places[..., POSE.index("size")]
    for k in range(len(LETTERS.alphabet)):
        of_class = fit.kept & (poses.ids == k)
        assert np.corrcoef(found[of_class], sizes[of_class])[0, 1] > 0.9


def test_a_misnamed_glyph_is_renamed_and_a_hidden_one_is_found() -> None:
    """Every 'a' is read as 'g', every 'g' as 'm'. 'a' has no glyph, 'g' a wrong one, 'm' two."""
    normalised, poses = scene()
    read_as = np.array([LETTERS.alphabet.index(c) for c in "gmel1m"])
    told = np.eye(LETTERS.classes, dtype=np.float32)[read_as[poses.ids]]
    seen = disturbed(replace(poses, probabilities=told), 1, 4)
    fit, doubts = look(normalised, seen)
    said = " ".join(doubts)
    assert "taken for 'g' looks like the fonts' 'a'" in said
    # Two shapes share one class. Fonts decide which one belongs to it, the recognizer cannot.
    assert "'g' was hardly ever read" in said
    assert "taken for 'm' looks like the fonts' 'g'" in said
    settled = fit.settled[:, None] & np.ones_like(poses.ids, np.bool_)
    assert (fit.poses.ids == poses.ids)[settled].mean() > 0.9
    assert fit.glyphs.any(axis=(1, 2)).all()


def test_correct_predictions_are_unchanged() -> None:
    normalised, poses = scene()
    fit, doubts = look(normalised[:100], disturbed(first_of(poses, 100), 1, 4))
    assert not doubts
    np.testing.assert_array_equal(fit.poses.ids, poses.ids[:100])
