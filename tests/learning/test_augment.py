"""Augmentation does what the recipe says and no more."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import v2

from leukoscope.config.recipe import Augmentation
from leukoscope.learning.augment import augment_batch, build_augmentation


@pytest.fixture
def batch() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(40, 216, (8, 24, 24, 3), dtype=torch.uint8, generator=generator)


def test_nothing_asked_nothing_done(batch: torch.Tensor) -> None:
    transform = build_augmentation(Augmentation())
    assert isinstance(transform, v2.Identity)
    assert augment_batch(batch, transform, 1) is batch


@pytest.mark.parametrize(
    "field",
    [
        {"rotation_deg": 30.0},
        {"shift": 0.2},
        {"shear_deg": 20.0},
        {"zoom": 0.3},
        {"brightness": 0.3},
        {"contrast": 0.3},
        {"saturation": 0.5},
        {"hue": 0.2},
        {"crop_min_area": 0.5},
    ],
)
def test_each_rate_changes_each_image(batch: torch.Tensor, field: dict[str, float]) -> None:
    changed = augment_batch(batch, build_augmentation(Augmentation(**field)), 1)
    assert changed.shape == batch.shape
    assert changed.dtype == torch.uint8
    assert all(not torch.equal(a, b) for a, b in zip(changed, batch, strict=True))


def test_flips_mirror_about_half_of_the_images(batch: torch.Tensor) -> None:
    for field, axis in (({"horizontal_flip": True}, 2), ({"vertical_flip": True}, 1)):
        changed = augment_batch(batch, build_augmentation(Augmentation(**field)), 1)
        mirrored = batch.flip(axis)
        same = [torch.equal(a, b) for a, b in zip(changed, batch, strict=True)]
        turned = [torch.equal(a, b) for a, b in zip(changed, mirrored, strict=True)]
        assert all(a != b for a, b in zip(same, turned, strict=True))
        assert 0 < sum(turned) < 8


def test_the_seed_alone_decides(batch: torch.Tensor) -> None:
    transform = build_augmentation(Augmentation(rotation_deg=20, brightness=0.2))
    before = torch.get_rng_state()
    first = augment_batch(batch, transform, 1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(first, augment_batch(batch, transform, 1))
    assert not torch.equal(first, augment_batch(batch, transform, 2))


def test_uncovered_corners_are_mirrored_not_black(batch: torch.Tensor) -> None:
    transform = build_augmentation(Augmentation(rotation_deg=45, shift=0.1, zoom=0.2, shear_deg=5))
    plain = torch.full_like(batch, 200)
    assert (augment_batch(plain, transform, 3) >= 199).all()


def test_quarter_turns_come_in_all_four(batch: torch.Tensor) -> None:
    many = batch[:1].repeat(40, 1, 1, 1)
    changed = augment_batch(many, build_augmentation(Augmentation(quarter_turns=True)), 1)
    turned = [torch.rot90(batch[0], k, (0, 1)) for k in range(4)]
    found = [[torch.equal(image, other) for other in turned] for image in changed]
    assert all(sum(row) == 1 for row in found)
    assert all(any(row[k] for row in found) for k in range(4))


def test_a_crop_keeps_the_colour_of_a_plain_image(batch: torch.Tensor) -> None:
    plain = torch.full_like(batch, 90)
    transform = build_augmentation(Augmentation(crop_min_area=0.3))
    assert torch.equal(augment_batch(plain, transform, 1), plain)
