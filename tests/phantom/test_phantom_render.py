"""Rendered fields: truth, independence of background and class, planted confounders."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import pairwise

import cv2
import numpy as np
import pytest
from sklearn.model_selection import GroupKFold, StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from leukoscope.core.errors import UsageError
from leukoscope.phantom import MORPHOLOGY, PhantomSpec, design_cases, render_phantom
from leukoscope.phantom.morphology import LARGEST_DIAMETER_UM
from leukoscope.phantom.render import session_of
from leukoscope.phantom.session import BAR_STYLES, draw_scale_bar

SPEC = PhantomSpec(images=32, sessions=4, seed=5)


@lru_cache(maxsize=64)
def _phantom(index: int):
    return render_phantom(SPEC, index)


def test_rendering_does_not_depend_on_order():
    last, first = render_phantom(SPEC, 7), render_phantom(SPEC, 2)
    again = render_phantom(SPEC, 7)
    assert np.array_equal(last.image, again.image)
    assert np.array_equal(last.mask, again.mask)
    assert last.attributes == again.attributes
    assert not np.array_equal(last.image, first.image)
    other = render_phantom(replace(SPEC, seed=6), 7)
    assert not np.array_equal(last.background, other.background)


@pytest.mark.parametrize("size_px", [96, 224, 300])
def test_shapes_and_types(size_px):
    phantom = render_phantom(replace(SPEC, size_px=size_px), 0)
    assert phantom.image.shape == phantom.background.shape == (size_px, size_px, 3)
    assert phantom.mask.shape == (size_px, size_px)
    assert phantom.image.dtype == phantom.background.dtype == phantom.mask.dtype == np.uint8


@pytest.mark.parametrize("index", range(8))
def test_mask_boxes_and_attributes_agree(index):
    phantom = _phantom(index)
    assert set(np.unique(phantom.mask)) <= {0, 1, 2, 3}
    assert len(phantom.boxes) == len(phantom.attributes) >= 1
    leukocyte = phantom.mask >= 2
    inside = np.zeros_like(leukocyte)
    for x0, y0, x1, y1 in phantom.boxes:
        inside[y0:y1, x0:x1] = True
        part = leukocyte[y0:y1, x0:x1]
        for edge in (part[0], part[-1], part[:, 0], part[:, -1]):
            assert edge.any()  # a tight box touches its cell on all sides
        assert (phantom.mask[y0:y1, x0:x1] == 3).any()
    assert not (leukocyte & ~inside).any()


def test_cells_are_as_large_as_their_attributes_say():
    scale = 3.3  # px per µm in a 224 px field
    checked = 0
    for index in range(8):
        phantom = _phantom(index)
        for box, cell in zip(phantom.boxes, phantom.attributes, strict=True):
            x0, y0, x1, y1 = box
            if min(x0, y0) == 0 or max(x1, y1) == 224:
                continue
            alone = cv2.connectedComponents((phantom.mask >= 2).astype(np.uint8))[1]
            label = alone[(y0 + y1) // 2, (x0 + x1) // 2]
            area = (alone == label).sum()
            if label == 0 or area > 1.5 * np.pi / 4 * (x1 - x0) * (y1 - y0):
                continue  # touches another cell
            expected = np.pi / 4 * (scale * cell.diameter_um) ** 2
            assert area == pytest.approx(expected, rel=0.06)
            checked += 1
    assert checked >= 10


def test_image_equals_background_away_from_leukocytes():
    phantom = _phantom(3)
    near = cv2.dilate((phantom.mask >= 2).astype(np.uint8), np.ones((15, 15), np.uint8)) > 0
    assert np.array_equal(phantom.image[~near], phantom.background[~near])
    core = phantom.mask == 3
    assert phantom.image[core].mean() < phantom.background[core].mean() - 60


def test_background_is_the_same_whatever_the_class():
    # Same seed and index, other order of classes: only the leukocytes may change.
    turned = replace(SPEC, class_names=("pro_b", "pre_b", "early_pre_b", "benign"))
    a, b = _phantom(0), render_phantom(turned, 0)
    assert (a.case.label, b.case.label) == ("benign", "pro_b")
    assert np.array_equal(a.background, b.background)
    assert len(a.boxes) == len(b.boxes)
    assert not np.array_equal(a.image, b.image)


def test_no_red_cell_reaches_a_leukocyte_of_any_class():
    for index in range(8):
        phantom = _phantom(index)
        near = cv2.dilate((phantom.mask >= 2).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        assert not (phantom.mask[near] == 1).any()


def _background_features(spec: PhantomSpec):
    cases = design_cases(spec)
    features = []
    for case in cases:
        flat = render_phantom(spec, case.index).background.reshape(-1, 3).astype(float)
        percentiles = np.percentile(flat, [5, 25, 50, 75, 95], axis=0).ravel()
        features.append(np.r_[flat.mean(0), flat.std(0), percentiles])
    labels = np.array([case.label for case in cases])
    sessions = np.array([case.session for case in cases])
    return np.array(features), labels, sessions


def _knn():
    return make_pipeline(StandardScaler(), KNeighborsClassifier(3))


def test_background_colour_does_not_tell_the_class():
    X, y, sessions = _background_features(PhantomSpec(images=96, sessions=8, size_px=96, seed=3))
    accuracy = cross_val_score(_knn(), X, y, groups=sessions, cv=GroupKFold(4)).mean()
    assert abs(accuracy - 0.25) < 3 * np.sqrt(0.25 * 0.75 / 96)


def test_planted_stain_tells_the_class():
    spec = PhantomSpec(images=96, sessions=8, size_px=96, seed=3, confound="stain")
    X, y, _ = _background_features(spec)
    folds = StratifiedKFold(4, shuffle=True, random_state=0)
    assert cross_val_score(_knn(), X, y, cv=folds).mean() > 0.8


def test_planted_scale_bar_follows_the_class_and_only_the_bar_changes():
    planted = replace(SPEC, confound="scale-bar")
    for index, style in enumerate(BAR_STYLES):
        bar, plain = render_phantom(planted, index), _phantom(index)
        assert bar.bar_style == style
        assert (bar.bar_box is None) == (style == "none")
        outside = np.ones((224, 224), bool)
        for box in (bar.bar_box, plain.bar_box):
            if box is not None:
                outside[box[1] : box[3], box[0] : box[2]] = False
        assert np.array_equal(bar.image[outside], plain.image[outside])
    styles = {(case.label, session_of(planted, case).bar_style) for case in design_cases(planted)}
    assert len(styles) == 4


@pytest.mark.parametrize("style", BAR_STYLES)
@pytest.mark.parametrize("size_px", [96, 224, 448])
def test_scale_bar_changes_its_box_only(style, size_px):
    image = np.full((size_px, size_px, 3), 230, np.uint8)
    box = draw_scale_bar(image, style)
    changed = (image != 230).any(axis=2)
    if style == "none":
        assert box is None
        assert not changed.any()
        return
    assert box is not None
    x0, y0, x1, y1 = box
    assert 0 <= x0 < x1 <= size_px
    assert 0 <= y0 < y1 <= size_px
    assert changed[y0:y1, x0:x1].sum() > 15
    changed[y0:y1, x0:x1] = False
    assert not changed.any()


def test_index_outside_the_set_is_refused():
    with pytest.raises(UsageError, match="expected 0 to 31"):
        render_phantom(SPEC, 32)


def test_rules_are_ordered_and_overlap():
    rules = list(MORPHOLOGY.values())
    sizes = [rule.diameter_um for rule in rules]
    assert [s.mean for s in sizes] == sorted(s.mean for s in sizes)
    assert max(s.high for s in sizes) == LARGEST_DIAMETER_UM
    for smaller, larger in pairwise(sizes):
        assert larger.mean - smaller.mean < 2 * (smaller.sd + larger.sd)  # no single trait decides
    for rule in rules:
        assert sum(rule.nucleoli) == pytest.approx(1)
        assert rule.caption
        assert rule.reason
