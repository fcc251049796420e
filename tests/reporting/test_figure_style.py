"""Names from the data in figures: letters, never formulas."""

from __future__ import annotations

import pytest

from leukoscope.reporting.figures.style import class_ticks, figure_png, house_style, new_figure

HOSTILE = ("a$b", "$x$", r"$\frac{", r"price $5 and $\nothing{$", "$", "$$", "^{}$_")


@pytest.mark.parametrize("name", HOSTILE)
def test_dollars_in_names_are_letters(name: str) -> None:
    with house_style():
        figure = new_figure(2.0)
        ax = figure.add_subplot()
        ax.plot([0, 1], [1, 10], label=name)
        ax.set_title(name)
        ax.set_ylabel(name)
        ax.annotate(name, (0, 1))
        ax.legend()
        class_ticks(ax, [name, "b"])
        assert figure_png(figure).startswith(b"\x89PNG")
    assert figure_png(figure).startswith(b"\x89PNG")  # drawn again outside of the style


def test_powers_of_ten_stay_formulas() -> None:
    with house_style():
        figure = new_figure(2.0)
        ax = figure.add_subplot()
        ax.plot([1, 1e6], [1, 1])
        ax.set_xscale("log")
        figure_png(figure)
        labels = [tick.label1 for tick in ax.xaxis.get_major_ticks()]
    shown = [label for label in labels if label.get_text()]
    assert shown
    assert all("10^{" in label.get_text() and label.get_parse_math() for label in shown)
