"""From a Matplotlib figure to a small SVG element that takes its colours from the page and is the same in every run.

Matplotlib draws with placeholder colours; afterwards these become CSS variables (`--series-0`, …) and
`currentColor`, so that one drawing serves the light page, the dark page and paper. Text stays text, ids are
numbered within each chart, and each chart says in words what it shows.
"""

from __future__ import annotations

import importlib
import io
import re
import warnings
import xml.etree.ElementTree as ElementTree
from contextlib import AbstractContextManager
from types import ModuleType
from typing import TYPE_CHECKING

from seqrec_jax.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SERIES_SIGNS = ("●", "■", "▲", "◆", "▼", "✚")
"""The sign of each series as text, for legends; the page names its colours `--series-0`, `--series-1`, …"""

SERIES_MARKERS = ("o", "s", "^", "D", "v", "P")
SERIES_COLORS = tuple(f"#fe001{number}" for number in range(len(SERIES_SIGNS)))
INK, MUTED, LINE, PAPER = "#fe0000", "#fe0001", "#fe0002", "#fe0003"
"""Placeholders for the page's colours; no drawing uses any other."""

_CSS_COLORS = {INK: "currentColor", MUTED: "var(--muted)", LINE: "var(--line)", PAPER: "var(--card)"} | {
    color: f"var(--series-{number})" for number, color in enumerate(SERIES_COLORS)
}
_WIDTH_INCHES = 4.3  # 310 units: one to one on a phone, half a page wide on a desk
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "seqrec_jax",
    "text.parse_math": False,  # a name may hold dollar signs
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": True,
}
_LONG_DECIMALS = re.compile(r"-?\d+\.\d{3,}")


def load_extra(module: str) -> ModuleType:
    """Import a module that the extra `report` installs.

    Args:
      module: name of a module that comes with the extra, such as `matplotlib.figure`.

    Returns:
      The module.

    Raises:
      MissingExtraError: it is not installed; the message says how to install it.

    >>> load_extra("jinja2").__name__
    'jinja2'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"the report needs {module.partition('.')[0]}, which cannot be imported ({error}); "
            'install it with: pip install "seqrec_jax[report]"'
        ) from error


def page_style() -> AbstractContextManager[None]:
    """A context with the charts' own Matplotlib settings, which the user's matplotlibrc does not change.

    Raises:
      MissingExtraError: matplotlib is not installed.
    """
    matplotlib = load_extra("matplotlib")
    style: AbstractContextManager[None] = matplotlib.rc_context(
        {**matplotlib.rcParamsDefault, **_STYLE, "backend": matplotlib.rcParams["backend"]}
    )
    return style


def new_figure(*, height: float) -> tuple[Figure, Axes]:
    """A figure of the page's width and `height` inches, with one pair of axes.

    Raises:
      MissingExtraError: matplotlib is not installed.
    """
    figure = load_extra("matplotlib.figure").Figure(figsize=(_WIDTH_INCHES, height), layout="constrained")
    return figure, figure.add_subplot()


def printable(text: str, *, width: int = 22) -> str:
    """The text without characters that cannot be printed, cut to `width` characters.

    >>> printable("most popular in the last seven days", width=12)
    'most popula…'
    """
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in str(text)).split())
    return text if len(text) <= width else text[: width - 1] + "…"


def to_svg(figure: Figure, *, name: str, title: str, description: str) -> str:
    """The figure as an `<svg>` element.

    Args:
      figure: drawn within `page_style`, in the placeholders' colours.
      name: prefix of the ids, unique on the page.
      title: what the chart shows, for screen readers.
      description: the chart in words.

    Returns:
      An element for an HTML page; it refers to nothing outside itself but the page's colours.
    """
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # The reader's fonts draw the text, so glyphs that matplotlib's own font lacks do not matter.
        warnings.filterwarnings("ignore", message=r"(?s).*[Gg]lyph.*missing", category=UserWarning)
        warnings.filterwarnings("ignore", message=r"(?s).*does not support", category=UserWarning)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    drawing = ElementTree.fromstring(buffer.getvalue())
    for parent in drawing.iter():
        for child in list(parent):
            if child.tag.endswith(("metadata", "style")):
                parent.remove(child)
    used = [value for node in drawing.iter() for value in node.attrib.values() if "#" in value]
    ids: dict[str, str] = {}
    for node in drawing.iter():
        node.tag = node.tag.rpartition("}")[2]
        found = node.attrib.pop("id", None)
        if found and any(value in (f"#{found}", f"url(#{found})") for value in used):
            ids[found] = node.attrib["id"] = f"{name}-{len(ids) + 1}"
        if "style" in node.attrib:
            node.attrib["style"] = _themed(node.attrib["style"])
        for key in {"d", "x", "y", "width", "height"} & node.attrib.keys():
            node.attrib[key] = _rounded(node.attrib[key])
        node.text, node.tail = (part if part and part.strip() else None for part in (node.text, node.tail))
    for node in drawing.iter():
        for key, value in list(node.attrib.items()):
            if key.endswith("href"):
                del node.attrib[key]
                node.attrib["href"] = f"#{ids[value[1:]]}"
            elif value.startswith("url(#"):
                node.attrib[key] = f"url(#{ids[value[5:-1]]})"
        _share_style(node)
    drawing.attrib = {
        "viewBox": drawing.attrib["viewBox"],
        "role": "img",
        "aria-labelledby": f"{name}-title",
        "aria-describedby": f"{name}-description",
    }
    for tag, text in (("desc", description), ("title", title)):
        node = ElementTree.Element(tag, {"id": f"{name}-{'title' if tag == 'title' else 'description'}"})
        node.text = "".join(letter if letter.isprintable() else " " for letter in text)
        drawing.insert(0, node)
    return ElementTree.tostring(drawing, encoding="unicode")


def _rounded(coordinates: str) -> str:
    """Coordinates with two decimals; a hundredth of a unit is finer than any screen."""
    text = " ".join(coordinates.split())
    return _LONG_DECIMALS.sub(lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), text)


def _share_style(group: ElementTree.Element) -> None:
    """Move the style of a group's equal signs to the group."""
    styles = {child.attrib.get("style") for child in group}
    if "style" in group.attrib:
        return
    if len(group) > 1 and len(styles) == 1 and None not in styles and {child.tag for child in group} == {"use"}:
        group.attrib["style"] = group[0].attrib["style"]
        for child in group:
            del child.attrib["style"]


def _themed(style: str) -> str:
    """One style attribute with CSS colours for the placeholders and the page's font."""
    declarations = []
    for declaration in style.split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key == "font":  # size, then matplotlib's list of families
            size = next(part for part in value.split() if part.endswith("px"))
            key, value = "font-size", size
        if key and key != "font-family":
            declarations.append(f"{key}:{_CSS_COLORS.get(value, value)}")
    return ";".join(declarations)
