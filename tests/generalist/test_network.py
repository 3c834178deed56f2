import numpy as np
import torch

from simgan_captcha.generalist.features import HEIGHT, features
from simgan_captcha.generalist.network import Generalist, features_of_ink


def test_ink_gives_the_feature_maps_of_a_picture_with_black_ink_on_white() -> None:
    """Both ways from pixels to the input of the network give the same maps."""
    torch.manual_seed(1)
    network = Generalist().eval()
    ink = np.zeros((HEIGHT, 80), np.float32)
    ink[10:30, 12:20], ink[5:35, 40:44] = 1, 0.5
    picture = np.repeat(np.rint(255 * (1 - ink)).astype(np.uint8)[..., None], 3, -1)
    expected = network.feature_maps(torch.from_numpy(features(picture))[None])
    found = features_of_ink(network)(torch.from_numpy(2 * ink - 1)[None, None])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=0.02)


def test_gradients_reach_the_ink_and_not_the_network() -> None:
    network = Generalist()
    ink = torch.zeros(2, 1, 50, 100, requires_grad=True)
    maps = features_of_ink(network)(ink)
    assert [each.shape[2] for each in maps] == [HEIGHT // 2, HEIGHT // 4, HEIGHT // 8]
    sum(each.square().mean() for each in maps).backward()  # type: ignore[union-attr]
    assert ink.grad is not None
    assert ink.grad.any()
    assert all(weight.grad is None for weight in network.parameters())
