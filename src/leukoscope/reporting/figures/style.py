"""The look of every figure: palette, sizes, and how a figure becomes a file."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import DataError
from leukoscope.core.labels import class_title, order_classes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ClassStyle:
    """How a class is drawn.

    Attributes:
        colour: ``#rrggbb``.
        marker: Of matplotlib.
        dashes: Line style of matplotlib.
    """

    colour: str
    marker: str
    dashes: object


WIDTH_IN = 7.2  # the text width of A4 between its margins
DPI = 200  # twice the density of a CSS pixel at the width above
CSS_PX_PER_IN = 100

# Okabe & Ito 2008: told apart with every common kind of colour blindness.
_OF_ALL_SETS: Mapping[str, ClassStyle] = {
    "healthy": ClassStyle("#009E73", "o", "-"),
    "benign": ClassStyle("#0072B2", "s", "-"),
    "early_pre_b": ClassStyle("#E69F00", "^", (0, (6, 1.5))),
    "pre_b": ClassStyle("#CC79A7", "D", (0, (3, 1.2))),
    "pro_b": ClassStyle("#56B4E9", "v", (0, (5, 1.2, 1, 1.2))),
    "all": ClassStyle("#D55E00", "P", (0, (6, 1.5))),
}
# For any other class, in turn: those of Okabe & Ito, of Tol's muted scheme (2021), and dark ones
# that lie between them. From eight classes on the marker and the dash must help.
_COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#882255",
    "#117733", "#AA4499", "#999933", "#661100", "#44AA99", "#5D6D7E", "#C21E56", "#1F5FA8",
    "#8A5E00", "#7E57C2", "#2F5F52", "#E57373",
)  # fmt: skip
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*", "d")
_DASHES: tuple[object, ...] = ("-", (0, (6, 1.5)), (0, (3, 1.2)), (0, (5, 1.2, 1, 1.2)))
MANY_CLASSES = 7  # from here on a figure gives each less room
SHORT_TITLES: Mapping[str, str] = {
    "healthy": "Healthy",
    "benign": "Benign",
    "early_pre_b": "Early pre-B",
    "pre_b": "Pre-B",
    "pro_b": "Pro-B",
    "all": "ALL",
}
SERIES = ("#111111", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00")
_ROW_TITLES_IN = 1.7  # beside a heat map
_MOST_LETTERS = 22  # of a class's name in a figure; tables hold it in full
_LINE_LETTERS = 14
INK = "#1b2430"
QUIET = "#5a6675"
GRID = "#dde3ea"
AXIS = "#9aa5b1"
_THEMED: Mapping[str, str] = {  # colours that a dark page turns; `style.css` has the properties
    INK: "--ink", "#111111": "--ink", "#000000": "--ink", QUIET: "--quiet", "#555555": "--quiet",
    GRID: "--rule", AXIS: "--line", "#ffffff": "--paper",
}  # fmt: skip
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
MOST_POINTS = 1000  # of a scatter plot that is drawn as such

# For letters that DejaVu Sans lacks, such as Chinese ones in the name of a class.
_OTHER_FONTS = (
    "Noto Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans Devanagari",
    "Noto Sans Bengali", "Noto Sans Thai", "Arial Unicode MS", "Droid Sans Fallback",
    "WenQuanYi Zen Hei", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "PingFang SC",
    "Hiragino Sans", "Nirmala UI",
)  # fmt: skip

_RC: dict[Any, object] = {
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.labelcolor": INK,
    "axes.edgecolor": AXIS,
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
    from matplotlib.font_manager import get_font_names

    there = set(get_font_names())
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC)
        matplotlib.rcParams["font.family"] = [
            "DejaVu Sans", *(name for name in _OTHER_FONTS if name in there)
        ]  # fmt: skip
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


def crowded(class_names: Sequence[str]) -> bool:
    """Whether many or long class names need the whole width of a page."""
    return len(class_names) >= MANY_CLASSES or _longest(class_names) > _LINE_LETTERS


def tick_height(class_names: Sequence[str]) -> float:
    """Inches that the names below a heat map take beyond a line or two; 0 where they stand upright.

    >>> tick_height(["benign", "pro_b"])
    0.0
    """
    return 0.055 * _longest(class_names) if crowded(class_names) else 0.0


def _longest(class_names: Sequence[str]) -> int:
    return max((len(short_title(name)) for name in class_names), default=0)


def class_ticks(ax: Axes, class_names: Sequence[str]) -> None:
    """Put class names below the columns of a heat map, which has no grid."""
    if not crowded(class_names):
        names = [short_title(name).replace(" ", "\n", 1) for name in class_names]
        ax.set_xticks(range(len(names)), names)
    else:
        names = [short_title(name) for name in class_names]
        ax.set_xticks(
            range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor",
            fontsize=fitting_size(ax, len(names), 2),
        )  # fmt: skip
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def fitting_size(ax: Axes, columns: int, letters: int) -> float:
    """Size in points of type with which ``letters`` fit into a column of a heat map."""
    spec = ax.get_subplotspec()
    panels = 1 if spec is None else spec.get_gridspec().ncols
    figure = ax.get_figure(root=True)
    width_in = WIDTH_IN if figure is None else figure.get_figwidth()
    column_pt = 72 * (width_in / panels - _ROW_TITLES_IN) / max(1, columns)
    return float(np.clip(column_pt / (0.65 * max(1, letters)), 4.0, 9.0))


def legend_columns(titles: Sequence[str], most: int, *, width_in: float = WIDTH_IN) -> int:
    """How many columns a legend below or above a figure can have."""
    longest = max(map(len, titles), default=1)
    return int(np.clip(width_in * 72 / (5.2 * longest + 45), 1, most))


def ink_on(colours: Colormap, share: float) -> str:
    """Black or white, whichever is readable on a colour of the map; neither turns on dark pages."""
    return "#fefefe" if luminance(np.asarray(colours(float(share))[:3])) < 0.4 else "#010101"


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
    with (
        matplotlib.rc_context({"text.parse_math": True}),  # of ticks that drawing adds
        warnings.catch_warnings(),
    ):
        # A letter that no font here has is drawn as a box; tables have the name in full.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")
        canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())
    picture = Image.fromarray(pixels[..., :3])
    if not photo:
        picture = picture.quantize(256, dither=Image.Dither.NONE)
    out = io.BytesIO()
    # The highest level takes photographs six times as long and makes them a tenth smaller.
    picture.save(out, format="PNG", compress_level=3 if photo else 6)
    return out.getvalue()


def figure_svg(figure: Figure, name: str) -> str:
    """A chart as the source of an SVG element, equal for equal input, to stand inside a page.

    Type stays type; the house's greys become custom properties of CSS, so that a page can turn
    them dark. What has very many points is drawn as pixels.

    Args:
        figure: Without photographs.
        name: Of the file; makes identifiers differ between the figures of a page.
    """
    import matplotlib
    from matplotlib.collections import PathCollection

    _typeset_powers(figure)
    for points in figure.findobj(PathCollection):
        points.set_rasterized(np.size(points.get_offsets()) > 2 * MOST_POINTS)
    how: dict[Any, object] = {"text.parse_math": True, "svg.fonttype": "none", "svg.hashsalt": name}
    out = io.StringIO()
    with matplotlib.rc_context(how), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")
        _lay_out(figure)
        figure.savefig(out, format="svg", metadata=_NO_METADATA, facecolor="none")
    return _inlined(out.getvalue(), name)


def _lay_out(figure: Figure) -> None:
    """Place the parts of a figure for SVG; to have it done, ``savefig`` draws everything twice."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    engine = figure.get_layout_engine()
    if engine is not None:
        FigureCanvasSVG(figure)  # type is measured as the file will have it
        dpi = figure.dpi
        engine.execute(figure)
        figure.dpi = dpi  # measuring for SVG sets its own
        with matplotlib.rc_context({"figure.constrained_layout.use": False}):
            figure.set_layout_engine(None)


def _inlined(source: str, name: str) -> str:
    """An SVG file of matplotlib as an element among others: no style, no identifier twice."""
    svg = source[source.index("<svg") :]
    svg = re.sub(
        r"<defs>\s*<style.*?</style>\s*</defs>|<metadata>.*?</metadata>", "", svg, flags=re.S
    )
    svg = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'stroke-linejoin="round"', svg, count=1)
    used = set(re.findall(r"#([\w.-]+)[)\"]", svg))
    prefix = re.sub(r"[^\w-]", "-", name)
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r"(url\(|href=\")#", rf"\1#{prefix}-", svg)
    svg = re.sub(r' transform="rotate\(-0 [^"]*"', "", svg)
    svg = re.sub(r"font-family: [^;\"]+", "font-family: 'DejaVu Sans', Verdana, sans-serif", svg)
    svg = re.sub(
        r": (#[0-9a-f]{6})\b",
        lambda m: f": var({_THEMED[m[1]]}, {m[1]})" if m[1] in _THEMED else m[0],
        svg,
    )
    return re.sub(r"\n\s*", "\n", svg)


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
    done, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 76])
    if not done:
        raise DataError("a picture could not be written as JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()


def shades() -> Colormap:
    """A light-to-dark colour map for shares; white type is readable on its dark end."""
    import matplotlib
    from matplotlib.colors import ListedColormap

    return ListedColormap(matplotlib.colormaps["Blues"](np.linspace(0.0, 0.87, 256)))


def class_styles(class_names: Iterable[str]) -> dict[str, ClassStyle]:
    """How each of the classes of a data set is drawn, no two alike.

    Those of the public ALL sets always look the same; the others take, in their order, what is
    left over.

    Args:
        class_names: All of the data set, so that a class looks the same in every figure.

    >>> found = class_styles(["all", "hairy_cell", "zebra"])
    >>> found["all"].colour, found["hairy_cell"].colour, found["zebra"].colour
    ('#D55E00', '#0072B2', '#009E73')
    """
    names = order_classes(class_names)
    styles = {name: _OF_ALL_SETS[name] for name in names if name in _OF_ALL_SETS}
    taken = {style.colour for style in styles.values()}
    free = [colour for colour in _COLOURS if colour not in taken]
    others = [name for name in names if name not in styles]
    for number, name in enumerate(others):
        turn, place = divmod(number, len(free))
        styles[name] = ClassStyle(
            free[place],
            _MARKERS[(number + turn) % len(_MARKERS)],
            _DASHES[(number + turn) % len(_DASHES)],
        )
    return styles


def short_title(name: str) -> str:
    """A class's name where space is scarce, at most two lines' worth."""
    title = SHORT_TITLES.get(name) or class_title(name)
    return title if len(title) <= _MOST_LETTERS else f"{title[: _MOST_LETTERS - 1]}…"


def luminance(rgb: NDArray[np.float64]) -> float:
    """Relative luminance in [0, 1] of an sRGB colour, (3,) float in [0, 1] (WCAG 2.2).

    >>> luminance(np.array([1.0, 1.0, 1.0]))
    1.0
    """
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))
