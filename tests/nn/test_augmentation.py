from __future__ import annotations

import pytest
import torch
from torchvision.transforms import Compose, RandomGrayscale, RandomHorizontalFlip, RandomRotation

from nh2st_graph.nn import random_views


def _images(n=4, size=16, seed=0):
    return torch.randint(0, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(seed)).float()


def _same_pixels(a, b):
    """Share of pixels that agree: rounding may choose another nearest one where two are equally near."""
    return float(((a - b).abs() < 1e-3).all(dim=1).float().mean())


@pytest.mark.parametrize(("grey", "flip"), [(0.1, 0.2), (1.0, 0.0), (0.0, 1.0), (0.5, 0.5)])
def test_equals_torchvisions_transforms_from_the_same_draws(grey, flip):
    transforms = Compose([RandomGrayscale(grey), RandomRotation(90), RandomHorizontalFlip(flip)])
    images = _images()
    for seed in range(5):
        torch.manual_seed(seed)
        expected = transforms(images)
        torch.manual_seed(seed)
        assert _same_pixels(random_views(images, grey, 90.0, flip), expected) > 0.995


def test_one_draw_for_all_or_one_for_each():
    image = _images(1).expand(8, -1, -1, -1)
    torch.manual_seed(0)
    together, apart = random_views(image), random_views(image, apart=True)
    assert len(together.unique(dim=0)) == 1
    assert len(apart.unique(dim=0)) == 8


def test_each_image_by_itself_has_the_draws_of_its_place():
    images = _images(6)
    torch.manual_seed(0)
    views = random_views(images, 0.5, 90.0, 0.5, apart=True)
    torch.manual_seed(0)
    is_grey, angle, is_flipped = torch.rand(6) < 0.5, torch.empty(6).uniform_(-90, 90), torch.rand(6) < 0.5
    assert 0 < is_grey.sum() < 6
    assert 0 < is_flipped.sum() < 6
    for i in range(6):
        turned = Compose(
            [
                RandomGrayscale(float(is_grey[i])),
                RandomRotation((float(angle[i]), float(angle[i]))),
                RandomHorizontalFlip(float(is_flipped[i])),
            ]
        )
        assert _same_pixels(views[i : i + 1], turned(images[i : i + 1])) > 0.99


def test_nothing_drawn_is_nothing_done():
    images = _images().double()
    torch.testing.assert_close(random_views(images, 0.0, 0.0, 0.0), images)


def test_corners_that_a_rotation_uncovers_are_black():
    white = torch.full((1, 3, 17, 17), 255.0)
    torch.manual_seed(0)
    angles = torch.rand(1), torch.empty(1).uniform_(-90, 90)
    assert 10 < abs(float(angles[1])) < 80
    torch.manual_seed(0)
    view = random_views(white, grey=0.0, flip=0.0)
    assert set(view.unique().tolist()) == {0.0, 255.0}
    assert float(view[0, 0, 0, 0]) == 0.0
    assert float(view[0, 0, 8, 8]) == 255.0
