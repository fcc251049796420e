"""The look of every figure: palette, sizes, and how a figure becomes a file."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import DataError
from leukoscope.core.labels import class_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

WIDTH_IN = 7.2  # the text width of A4 between its margins
DPI = 200  # twice the density of a CSS pixel at the width above
CSS_PX_PER_IN = 100

# Okabe & Ito 2008: told apart with every common kind of colour blindness.
CLASS_COLOURS: Mapping[str, str] = {
    "healthy": "#009E73",
    "benign": "#0072B2",
    "early_pre_b": "#E69F00",
    "pre_b": "#CC79A7",
    "pro_b": "#56B4E9",
    "all": "#D55E00",
}
CLASS_MARKERS: Mapping[str, str] = {
    "healthy": "o",
    "benign": "s",
    "early_pre_b": "^",
    "pre_b": "D",
    "pro_b": "v",
    "all": "P",
}
CLASS_DASHES: Mapping[str, object] = {
    "healthy": "-",
    "benign": "-",
    "early_pre_b": (0, (6, 1.5)),
    "pre_b": (0, (3, 1.2)),
    "pro_b": (0, (5, 1.2, 1, 1.2)),
    "all": (0, (6, 1.5)),
}
SHORT_TITLES: Mapping[str, str] = {
    "healthy": "Healthy",
    "benign": "Benign",
    "early_pre_b": "Early pre-B",
    "pre_b": "Pre-B",
    "pro_b": "Pro-B",
    "all": "ALL",
}
INPUT_STYLES: Mapping[str, tuple[str, str]] = {  # colour and marker
    "image": ("#111111", "o"),
    "background-only": ("#C25400", "s"),
    "colour-only": ("#8A5E00", "^"),
    "cells-only": ("#007A5A", "D"),
    "background-grey": ("#7A4E2D", "s"),
    "silhouette-only": ("#5B3A8C", "v"),
    "cells-only-grey": ("#2F5F52", "D"),
    "scale-bar-only": ("#B0004E", "P"),
    "stain-neutral": ("#1F5FA8", "X"),
}
OTHER_INPUT = ("#555555", "v")
SERIES = ("#111111", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00")
INK = "#1b2430"
QUIET = "#5a6675"
GRID = "#dde3ea"
BAND = "#edf1f5"

_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9aa5b1",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "axes.grid": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "text.parse_math": False,  # a $ in the name of a file or class is no formula
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "legend.fontsize": 9.0,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
    "figure.facecolor": "white",
}


@contextmanager
def house_style() -> Iterator[None]:
    """Give figures made and saved inside the block one look, whatever the caller's settings."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC)
        yield


def new_figure(height_in: float, *, width_in: float = WIDTH_IN) -> Figure:
    """An empty figure that is independent of pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panel_grid(
    panels: int,
    height_in: float,
    *,
    columns: int = 2,
    extra_in: float = 0.0,
    one_in: float = WIDTH_IN,
    **subplots: Any,
) -> tuple[Figure, list[Axes]]:
    """A figure of equal panels in rows.

    Args:
        panels: Number of panels.
        height_in: Height of a row.
        columns: Most panels in a row.
        extra_in: Additional height.
        one_in: Width of a figure with a single column.
        **subplots: For ``Figure.subplots``.

    Returns:
        The figure and its axes in reading order, unused ones hidden and last.
    """
    columns = min(columns, panels)
    rows = -(-panels // columns)
    width_in = WIDTH_IN if columns > 1 else one_in
    figure = new_figure(height_in * rows + extra_in, width_in=width_in)
    axes = figure.subplots(rows, columns, squeeze=False, **subplots).ravel().tolist()
    for ax in axes[panels:]:
        ax.set_visible(False)
    return figure, axes


def class_ticks(ax: Axes, class_names: Sequence[str]) -> None:
    """Put class names below the columns of a heat map, which has no grid."""
    names = [short_title(name).replace(" ", "\n", 1) for name in class_names]
    ax.set_xticks(range(len(names)), names)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def ink_on(colours: Colormap, share: float) -> str:
    """Black or white, whichever is readable on a colour of the map."""
    return "white" if luminance(np.asarray(colours(float(share))[:3])) < 0.4 else "black"


def figure_png(figure: Figure, *, photo: bool = False) -> bytes:
    """A figure as PNG bytes, equal for equal input (no time, no version inside).

    ``photo`` keeps all colours; a chart needs at most 256 and is half as large with them.
    """
    import matplotlib
    from PIL import Image

    # `savefig` would draw it once more for its layout, and encode it to be decoded again.
    figure.set_dpi(DPI)
    _typeset_powers(figure)
    canvas: Any = figure.canvas  # its Agg methods are untyped
    with matplotlib.rc_context({"text.parse_math": True}):  # of ticks that drawing adds
        canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())
    picture = Image.fromarray(pixels[..., :3])
    if not photo:
        picture = picture.quantize(256, dither=Image.Dither.NONE)
    out = io.BytesIO()
    # The highest level takes photographs six times as long and makes them a tenth smaller.
    picture.save(out, format="PNG", compress_level=3 if photo else 6)
    return out.getvalue()


def _typeset_powers(figure: Figure) -> None:
    """Let the powers of ten beside a logarithmic axis, which are formulas, be set as such."""
    from matplotlib.ticker import LogFormatter

    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            ticks = []
            if isinstance(axis.get_major_formatter(), LogFormatter):
                ticks += axis.get_major_ticks()
            if isinstance(axis.get_minor_formatter(), LogFormatter):
                ticks += axis.get_minor_ticks()
            for tick in ticks:
                tick.label1.set_parse_math(True)
                tick.label2.set_parse_math(True)


def png_uri(data: bytes) -> str:
    """A ``data:`` URI of PNG bytes."""
    return "data:image/png;base64," + base64.b64encode(data).decode()


def photo_uri(data: bytes, *, max_width_px: int = 1440) -> str:
    """A ``data:`` URI of a photographic picture as JPEG, a fraction of the PNG's size.

    Raises:
        DataError: The bytes are no picture.
    """
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError("expected a PNG or JPEG picture, got other bytes")
    height, width = image.shape[:2]
    if width > max_width_px:
        size = (max_width_px, max(1, round(height * max_width_px / width)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    done, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 86])
    if not done:
        raise DataError("a picture could not be written as JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()


def shades() -> Colormap:
    """A light-to-dark colour map for shares; white type is readable on its dark end."""
    import matplotlib
    from matplotlib.colors import ListedColormap

    return ListedColormap(matplotlib.colormaps["Blues"](np.linspace(0.0, 0.87, 256)))


def class_colour(name: str) -> str:
    """The colour of a class, the same in every figure."""
    return CLASS_COLOURS.get(name, QUIET)


def short_title(name: str) -> str:
    """A class's name where space is scarce."""
    return SHORT_TITLES.get(name) or class_title(name)


def luminance(rgb: NDArray[np.float64]) -> float:
    """Relative luminance in [0, 1] of an sRGB colour, (3,) float in [0, 1] (WCAG 2.2).

    >>> luminance(np.array([1.0, 1.0, 1.0]))
    1.0
    """
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))
