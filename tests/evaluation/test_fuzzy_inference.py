"""Mamdani inference against scikit-fuzzy, term by term and as a whole."""

from __future__ import annotations

import numpy as np
import pytest
import skfuzzy

from leukoscope.core.errors import DataError
from leukoscope.evaluation.fuzzy_inference import (
    GRID,
    FuzzySystem,
    Rule,
    Term,
    Variable,
    centroid,
    combine_members,
    even_terms,
    member_system,
    rules_text,
    terms_at,
)

UNIVERSE = np.linspace(0, 1, GRID)


@pytest.mark.parametrize("feet", [(0.1, 0.4, 0.9), (0.0, 0.0, 0.5), (0.5, 1.0, 1.0)])
def test_triangles_are_scikit_fuzzys(feet: tuple[float, float, float]) -> None:
    ours = Term("a", "triangular", feet).membership(UNIVERSE)
    np.testing.assert_allclose(ours, skfuzzy.trimf(UNIVERSE, list(feet)), atol=1e-12)


def test_gaussians_are_scikit_fuzzys() -> None:
    ours = Term("a", "gaussian", (0.3, 0.1)).membership(UNIVERSE)
    np.testing.assert_allclose(ours, skfuzzy.gaussmf(UNIVERSE, 0.3, 0.1), atol=1e-12)


def test_the_centroid_is_scikit_fuzzys() -> None:
    rng = np.random.default_rng(0)
    area = rng.random((20, GRID)) * (rng.random((20, 1)) > 0.2)
    ours = centroid(UNIVERSE, area)
    for row, heights in zip(ours, area, strict=True):
        expected = skfuzzy.defuzz(UNIVERSE, heights, "centroid") if heights.any() else 0.5
        assert row == pytest.approx(expected, abs=1e-9)


@pytest.mark.filterwarnings("ignore:Passing more than 2 positional:DeprecationWarning")
def test_a_whole_controller_is_scikit_fuzzys() -> None:
    """Two inputs, three words each, nine rules; minimum, maximum, centroid."""
    from skfuzzy import control

    rng = np.random.default_rng(1)
    system = member_system(["a", "b"])
    a, b = (control.Antecedent(UNIVERSE, name) for name in ("a", "b"))
    out = control.Consequent(UNIVERSE, "support", defuzzify_method="centroid")
    for variable, terms in ((a, system.inputs[0]), (b, system.inputs[1]), (out, system.outputs[0])):
        for term in terms.terms:
            variable[term.name] = skfuzzy.trimf(UNIVERSE, list(term.values))
    names = [t.name for t in system.inputs[0].terms], [t.name for t in system.outputs[0].terms]
    rules = [
        control.Rule(a[names[0][r.conditions[0][1]]] & b[names[0][r.conditions[1][1]]],
                     out[names[1][r.conclusions[0][1]]])
        for r in system.rules
    ]  # fmt: skip
    simulation = control.ControlSystemSimulation(control.ControlSystem(rules))
    x = rng.random((12, 2))
    expected = []
    for first, second in x:
        simulation.input["a"], simulation.input["b"] = first, second
        simulation.compute()
        expected.append(simulation.output["support"])
    # scikit-fuzzy adds the exact corners of the cut shapes to the grid
    np.testing.assert_allclose(system.infer(x)[:, 0], expected, atol=2e-3)


def test_product_scales_where_minimum_cuts() -> None:
    word = Variable("x", even_terms(("low", "high")))
    rule = Rule(((0, 1), (1, 1)), ((0, 1),), weight=0.5)
    x = np.array([[0.5, 0.4]])
    held = {
        norm: FuzzySystem((word, word), (word,), (rule,), norm).activations(x)[0, 0]
        for norm in ("min", "product")
    }
    assert held == {"min": pytest.approx(0.2), "product": pytest.approx(0.1)}


def test_what_is_concluded_by_hand() -> None:
    """At one half, "high" holds to one half: under the cut word lie 3/8, under the scaled 1/4."""
    word = Variable("x", even_terms(("low", "high")))
    rule = Rule(((0, 1),), ((0, 1), (1, 0)))
    cut, scaled = (FuzzySystem((word,), (word, word), (rule,), norm) for norm in ("min", "product"))
    assert cut.infer([[0.5]])[0] == pytest.approx([11 / 18, 7 / 18])
    assert scaled.infer([[0.5]])[0] == pytest.approx([2 / 3, 1 / 3])


def test_the_strongest_rule_decides_of_a_word() -> None:
    word = Variable("x", even_terms(("low", "high")))
    strong, weak = (Rule(((v, 1),), ((0, 1),), weight) for v, weight in ((0, 1.0), (1, 0.4)))
    system = FuzzySystem((word, word), (word,), (strong, weak))
    alone = FuzzySystem((word, word), (word,), (strong,))
    x = np.array([[0.7, 0.9], [0.5, 0.2]])
    np.testing.assert_array_equal(system.infer(x), alone.infer(x))
    np.testing.assert_allclose(system.activations(x), [[0.7, 0.36], [0.5, 0.08]])


def test_many_rows_are_answered_as_each_alone() -> None:
    system = member_system(["a", "b"], shape="gaussian")
    x = np.random.default_rng(2).random((1030, 2))
    alone = [system.infer(x[i : i + 1])[0, 0] for i in (0, 511, 512, 1023, 1024, 1029)]
    assert system.infer(x)[[0, 511, 512, 1023, 1024, 1029], 0].tolist() == alone
    assert system.infer(x).shape == (1030, 1)


def test_where_no_rule_holds_the_answer_is_the_middle() -> None:
    word = Variable("x", even_terms(("low", "high")))
    system = FuzzySystem((word,), (word,), (Rule(((0, 1),), ((0, 1),)),))
    assert system.infer([[0.0]]).tolist() == [[0.5]]
    assert system.infer(np.empty((0, 1))).shape == (0, 1)
    with pytest.raises(DataError, match=r"expected \(n, 1\) values, got \(1, 2\)"):
        system.infer([[0.0, 1.0]])


@pytest.mark.parametrize("shape", ["triangular", "gaussian"])
@pytest.mark.parametrize("t_norm", ["min", "product"])
def test_support_grows_with_what_members_say(shape: str, t_norm: str) -> None:
    system = member_system(["a", "b", "c"], shape=shape, t_norm=t_norm)
    steps = np.repeat(np.linspace(0, 1, 9)[:, None], 3, axis=1)
    support = system.infer(steps)[:, 0]
    assert (np.diff(support) > -1e-9).all()
    assert support[0] < 0.2 < 0.8 < support[-1]
    probs = np.array([[[0.9, 0.1]], [[0.8, 0.2]], [[0.3, 0.7]]])
    combined = combine_members(system, probs)
    assert combined.sum() == pytest.approx(1)
    assert combined[0, 0] > combined[0, 1]


def test_each_class_is_supported_by_itself() -> None:
    system = member_system(["a", "b"])
    probs = np.random.default_rng(4).dirichlet((1, 1, 1), (2, 5))
    each = np.stack([system.infer(probs[:, :, k].T)[:, 0] for k in range(3)], axis=1)
    found = combine_members(system, probs)
    np.testing.assert_allclose(found, each / each.sum(axis=1, keepdims=True))


def test_gaussian_words_are_as_wide_as_the_nearer_neighbour_is_far() -> None:
    half = 2 * np.sqrt(2 * np.log(2))  # full width at half maximum, in standard deviations
    low, medium, high = terms_at([0, 1, 3], ("low", "medium", "high"), "gaussian")
    assert (low.name, medium.shape, high.name) == ("low", "gaussian", "high")
    assert low.values == pytest.approx((0, 1 / half))
    assert medium.values == pytest.approx((1, 1 / half))
    assert high.values == pytest.approx((3, 2 / half))
    with pytest.raises(ValueError, match="zip"):
        terms_at([0, 1], ("low",), "triangular")


def test_neighbouring_words_cross_at_one_half() -> None:
    for shape in ("triangular", "gaussian"):
        low, medium, high = terms_at([-1.0, 0.0, 2.0], ("low", "medium", "high"), shape)
        assert float(low.membership(-0.5)) == pytest.approx(0.5)
        assert float(medium.membership(-0.5)) == pytest.approx(0.5)
        assert float(high.membership(2.0)) == 1


def test_the_rule_base_reads_as_sentences() -> None:
    text = rules_text(member_system(["quick", "features-knn"]))
    assert "quick: low = triangular(0, 0, 0.5); medium = triangular(0, 0.5, 1)" in text
    assert "IF quick IS high AND features-knn IS high THEN support IS very high" in text
    with pytest.raises(DataError, match="two or more members, got 1"):
        member_system(["alone"])


def test_the_text_of_a_rule_base_in_full() -> None:
    low, high = even_terms(("low", "high"))
    bell = Term("bell", "gaussian", (0.25, 0.1234))
    system = FuzzySystem(
        (Variable("x", (low, high)), Variable("y", (bell,))),
        (Variable("first", (low, high)), Variable("second", (low,))),
        (
            Rule(((0, 1), (1, 0)), ((0, 0), (1, 0)), weight=0.5),
            Rule(((0, 0),), ((0, 1),)),
        ),
        "product",
    )
    assert rules_text(system, ["benign", "all"]).splitlines() == [
        "AND is the product.",
        "",
        "x: low = triangular(0, 0, 1); high = triangular(0, 1, 1)",
        "y: bell = gaussian(0.25, 0.123)",
        "benign: low = triangular(0, 0, 1); high = triangular(0, 1, 1)",
        "all: low = triangular(0, 0, 1)",
        "",
        "IF x IS high AND y IS bell THEN benign IS low, all IS low (weight 0.50)",
        "IF x IS low THEN benign IS high",
    ]
    assert rules_text(system).splitlines()[4].startswith("first: ")
    assert rules_text(member_system(["a", "b"])).startswith("AND is the minimum.\n\n")
    with pytest.raises(ValueError, match="zip"):
        rules_text(system, ["one"])


def test_every_two_members_have_nine_rules() -> None:
    system = member_system(["a", "b", "c"])
    said = {(rule.conditions, rule.conclusions) for rule in system.rules}
    assert said == {
        (((a, i), (b, j)), ((0, i + j),))
        for a, b in ((0, 1), (0, 2), (1, 2))
        for i in range(3)
        for j in range(3)
    }
    assert [variable.name for variable in system.inputs] == ["a", "b", "c"]
    assert system.outputs[0].name == "support"
