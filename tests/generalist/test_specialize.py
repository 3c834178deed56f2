"""Specialization: its loss, its augmentation, and a family that it learns at tiny size."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from simgan_captcha.generalist.characters import CLASSES, encode
from simgan_captcha.generalist.decoding import Alphabet, PossibleTexts
from simgan_captcha.generalist.features import HEIGHT
from simgan_captcha.generalist.network import Generalist
from simgan_captcha.generalist.specialization.settings import SpecializationSettings
from simgan_captcha.generalist.specialization.specialize import (
    GivenTexts,
    augment,
    common_width,
    forgiving_loss,
    learned_share,
    prepare,
    read_columns,
    specialize,
)

TINY = SpecializationSettings(steps=4, batch_size=4)


def test_the_loss_is_cross_entropy_when_it_forgives_nothing_and_bounded_when_it_does() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 12, CLASSES, generator=generator)
    ids = [torch.tensor(encode(t)) for t in ("ab1", "7", "zz")]
    logits[:, :, 0] += 7
    for image, text in enumerate(ids):
        logits[image, 2 : 2 + 3 * len(text) : 3, text] += 9
    lengths = torch.tensor([3, 1, 2])
    ctc = F.ctc_loss(
        logits.log_softmax(-1).transpose(0, 1),
        torch.cat(ids),
        torch.full((3,), 12),
        lengths,
        reduction="none",
    )
    nearly = forgiving_loss(logits, ids, 1e-4)
    assert float(nearly) == pytest.approx(float((ctc / lengths).mean()), rel=1e-2)
    assert float(forgiving_loss(1000 * logits, ids, 0.7)) <= 1 / 0.7


def test_images_of_many_sizes_are_prepared_to_one_width() -> None:
    images = [np.zeros((h, w, 3), np.uint8) for h, w in ((50, 120), (44, 102), (55, 152))]
    width = common_width([image.shape[:2] for image in images])
    assert width == 96
    assert prepare(images).shape == (3, 4, HEIGHT, width)


def test_augmentation_moves_images_a_little() -> None:
    images = torch.zeros(16, 4, HEIGHT, 80)
    images[:, :, 15:25, 30:50] = 1
    moved = augment(images, torch.Generator().manual_seed(1))
    assert moved.shape == images.shape
    columns = torch.arange(80.0)
    middles = (moved[:, 0].clamp(0.5, 1).sub(0.5).sum(1) * columns).sum(1) / moved[:, 0].clamp(
        0.5, 1
    ).sub(0.5).sum((1, 2))
    assert (middles - 39.5).abs().max() < 8
    assert middles.std() > 0.5


def test_a_seed_decides_and_the_given_network_stays() -> None:
    torch.manual_seed(1)
    network = Generalist().eval()
    with torch.no_grad():  # else texts are so improbable that nothing is learned from them
        network.logits.bias[encode("01")] += 8
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = np.random.default_rng(1).standard_normal((8, 4, HEIGHT, 48)).astype(np.float32)
    first, second = (
        specialize(
            network, images, PossibleTexts.of_lengths(Alphabet("01"), (2, 2)), TINY
        ).state_dict()
        for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not torch.equal(first["logits.weight"], before["logits.weight"])


def test_the_first_steps_learn_from_all_images_that_are_read_surely() -> None:
    """A font that is read a little less surely than others would be forgotten otherwise."""
    assert learned_share(0, 200, sure=0.87) == pytest.approx(0.87)
    assert learned_share(0, 200, sure=0.2) == pytest.approx(0.5)
    assert learned_share(60, 200, sure=0.2) == pytest.approx(0.75)
    assert learned_share(120, 200, sure=0.2) == learned_share(199, 200, sure=1.0) == 1.0


def test_it_learns_the_readings_of_another_reader_in_place_of_its_own() -> None:
    torch.manual_seed(1)
    network = Generalist().eval()
    with torch.no_grad():  # else texts are so improbable that nothing is learned from them
        network.logits.bias[encode("01")] += torch.tensor([8.0, 7.0])
    images = np.random.default_rng(1).standard_normal((8, 4, HEIGHT, 48)).astype(np.float32)
    possible = PossibleTexts.of_lengths(Alphabet("01"), (2, 2))
    settings = SpecializationSettings(steps=20, batch_size=8)

    def lead(text: str) -> float:
        """How much likelier a one is than a zero, in log odds, after all texts were this one."""
        given = GivenTexts(readings=[(text, 0.6)] * 8)
        learned = specialize(network, images, possible, settings, given=given)
        logits = read_columns(learned, torch.from_numpy(images))
        zero, one = encode("01")
        return float((logits[..., one] - logits[..., zero]).mean())

    assert lead("11") > lead("00") + 0.5
