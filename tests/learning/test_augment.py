"""Augmentation does what the recipe says and no more."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import v2

from leukoscope.config.recipe import Augmentation
from leukoscope.learning.augment import StainJitter, augment_batch, build_augmentation


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
        {"stain": 0.2},
        {"invert": 1.0},
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


def test_stain_jitter_scales_and_shifts_the_amount_of_each_dye() -> None:
    # Three pixels with known amounts of blue, eosin, rest; the levels are high enough that
    # rounding to whole numbers matters little.
    jitter = StainJitter(0.2)
    amounts = torch.tensor([[0.3, 0.1, 0.0], [0.1, 0.3, 0.02], [0.2, 0.2, 0.0]])
    levels = 256 * torch.exp(-amounts @ jitter.stains) - 1
    image = levels.round().byte().T[:, None]
    alpha, beta = torch.tensor([1.2, 0.9, 1.1]), torch.tensor([0.05, -0.1, 0.02])
    changed = jitter.transform(image, {"alpha": alpha, "beta": beta})
    expected = 256 * torch.exp(-(amounts * alpha + beta) @ jitter.stains) - 1
    assert (changed[:, 0].T - expected.clamp(0, 255)).abs().max() < 2
    same = jitter.transform(image, {"alpha": torch.ones(3), "beta": torch.zeros(3)})
    assert torch.equal(same, image)


def test_stain_jitter_draws_for_each_image_within_sigma_and_leaves_black() -> None:
    torch.manual_seed(0)
    drawn = [StainJitter(0.1).make_params([]) for _ in range(200)]
    for name, middle in (("alpha", 1), ("beta", 0)):
        values = torch.stack([params[name] for params in drawn]) - middle
        assert 0.09 < values.abs().max() <= 0.1
        assert values.unique(dim=0).shape == (200, 3)
    plain = torch.full((2, 16, 16, 3), 180, dtype=torch.uint8)
    plain[:, :8] = 5
    changed = augment_batch(plain, build_augmentation(Augmentation(stain=0.3)), 1)
    assert torch.equal(changed[:, :8], plain[:, :8])
    assert (changed[:, 8:] != 180).any(dim=3).all()
    assert not torch.equal(changed[0], changed[1])


def test_a_blur_takes_detail_and_keeps_the_mean(batch: torch.Tensor) -> None:
    changed = augment_batch(batch, build_augmentation(Augmentation(blur_px=3.0)), 1).float()
    plain = batch.float()
    left = changed.std((1, 2, 3)) / plain.std((1, 2, 3))
    assert left.max() <= 1  # the smallest blur changes nothing
    assert left.median() < 0.3
    assert len(left.unique()) == 8
    torch.testing.assert_close(changed.mean((1, 2)), plain.mean((1, 2)), atol=8, rtol=0)


def test_inverted_colours_come_as_often_as_asked(batch: torch.Tensor) -> None:
    many = batch[:1].repeat(60, 1, 1, 1)
    changed = augment_batch(many, build_augmentation(Augmentation(invert=0.25)), 1)
    inverted = [torch.equal(image, 255 - batch[0]) for image in changed]
    as_is = [torch.equal(image, batch[0]) for image in changed]
    assert all(a != b for a, b in zip(inverted, as_is, strict=True))
    assert 6 <= sum(inverted) <= 25


def test_compression_takes_more_where_more_quality_may_be_lost(batch: torch.Tensor) -> None:
    grey = batch[..., :1].expand_as(batch)  # colour is stored at half the resolution anyway

    def changed(jpeg: float) -> torch.Tensor:
        transform = build_augmentation(Augmentation(jpeg=jpeg))
        return (augment_batch(grey, transform, 1).float() - grey.float()).abs().mean((1, 2, 3))

    little, much = changed(0.01), changed(0.9)
    assert little.max() < 3
    assert much.median() > 2 * little.median()
    assert len(much.unique()) == len(batch)  # each image has a quality of its own


def test_later_kinds_do_not_shift_what_the_earlier_draw(batch: torch.Tensor) -> None:
    turned = Augmentation(rotation_deg=20, horizontal_flip=True)
    both = turned.model_copy(update={"invert": 1.0})
    first = augment_batch(batch[:1], build_augmentation(turned), 4)
    assert torch.equal(augment_batch(batch[:1], build_augmentation(both), 4), 255 - first)
