"""The design: which image, class, patient and session belong together."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency

from leukoscope.core.errors import ConfigError, UnknownNameError
from leukoscope.phantom import PhantomSpec, design_cases
from leukoscope.phantom.spec import stream


def _table(spec: PhantomSpec) -> np.ndarray:
    table = np.zeros((len(spec.class_names), spec.sessions), int)
    for case in design_cases(spec):
        table[spec.class_names.index(case.label), case.session] += 1
    return table


def test_default_session_and_class_are_independent():
    table = _table(PhantomSpec())
    assert table.sum() == 400
    assert table.min() >= 4
    assert table.max() <= 5
    assert chi2_contingency(table).pvalue > 0.99


def test_a_patient_has_one_class_and_several_sessions():
    sessions = defaultdict(set)
    for case in design_cases(PhantomSpec()):
        sessions[case.patient, case.label].add(case.session)
    assert len(sessions) == 96
    assert len({patient for patient, _ in sessions}) == 96
    assert min(len(found) for found in sessions.values()) >= 3


def test_stain_confounder_gives_each_session_one_class():
    table = _table(PhantomSpec(confound="stain"))
    assert ((table > 0).sum(axis=0) == 1).all()
    assert ((table > 0).sum(axis=1) == 6).all()


designs = st.builds(
    PhantomSpec,
    images=st.integers(4, 300),
    sessions=st.integers(4, 30),
    patients=st.one_of(st.just(0), st.integers(4, 120)),
    confound=st.sampled_from(["none", "stain", "scale-bar"]),
)


@settings(max_examples=60, deadline=None)
@given(designs)
def test_any_design_is_balanced(spec: PhantomSpec):
    cases = design_cases(spec)
    classes = defaultdict(set)
    for case in cases:
        classes[case.patient].add(case.label)
        assert 0 <= case.session < spec.sessions
    assert all(len(found) == 1 for found in classes.values())
    for counts in (Counter(c.label for c in cases),):
        assert max(counts.values()) - min(counts.values()) <= 1
    per_patient = Counter(c.patient for c in cases)
    for label in spec.class_names:
        own = [n for patient, n in per_patient.items() if classes[patient] == {label}]
        assert max(own) - min(own) <= 1
    if spec.patients:
        assert len(per_patient) == min(spec.patients, spec.images)


@settings(max_examples=60, deadline=None)
@given(designs.filter(lambda spec: spec.confound == "none"))
def test_any_unconfounded_design_balances_classes_within_sessions(spec: PhantomSpec):
    images = Counter((case.session, case.label) for case in design_cases(spec))
    for session in {session for session, _ in images}:
        counts = [images[session, label] for label in spec.class_names]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"images": 3}, "images"),
        ({"sessions": 0}, "sessions"),
        ({"sessions": 3, "confound": "stain"}, "sessions"),
        ({"patients": 2}, "patients"),
        ({"size_px": 32}, "size_px"),
        ({"size_px": 5000}, "size_px"),
        ({"confound": "light"}, "confound"),
        ({"class_names": ("benign", "benign")}, "class_names"),
        ({"class_names": ()}, "class_names"),
    ],
)
def test_impossible_designs_are_refused_by_name(changes, named):
    with pytest.raises(ConfigError, match=f"^{named}: expected"):
        PhantomSpec(**changes)


def test_unknown_class_answers_with_the_nearest():
    with pytest.raises(UnknownNameError, match="pro_b"):
        PhantomSpec(class_names=("benign", "pro_bb"))


def test_streams_differ_by_kind_number_and_seed():
    kinds = ("session", "background", "leukocytes", "patient")
    draws = {
        stream(PhantomSpec(seed=seed), kind, number).random()
        for seed in (0, 1)
        for kind in kinds
        for number in (0, 1)
    }
    assert len(draws) == 16
