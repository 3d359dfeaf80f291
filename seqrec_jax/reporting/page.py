"""One HTML page from sections: a file without scripts or requests that can be handed to a colleague.

`page.html` beside this file is the frame (head, style, contents, footer) and `blocks.html` draws tables and charts.
`render_page` makes a page of sections alone. A room with more to show has a template of its own that extends
`page.html`, and fills it with `fill_template`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from types import ModuleType
from typing import Any, NamedTuple

from seqrec_jax.errors import DataError
from seqrec_jax.reporting.blocks import MAX_ROWS, Drawing, check_block, draw_block
from seqrec_jax.reporting.sections import Section
from seqrec_jax.reporting.svg import load_extra
from seqrec_jax.reporting.wording import (
    format_count,
    format_figure,
    format_interval,
    format_p,
    format_percent,
    is_finite,
    shorten,
)

_ROOM = "seqrec_jax.reporting"


class DrawnSection(NamedTuple):
    """A section ready to be put on a page.

    Attributes:
      id: anchor, unique on the page.
      title: heading.
      summary: the section's sentences.
      blocks: its charts and tables.
    """

    id: str
    title: str
    summary: str
    blocks: list[Drawing]


def render_page(
    title: str,
    sections: Sequence[Section],
    *,
    kind: str = "Report",
    details: str = "",
    warnings: Sequence[str] = (),
    data_file: str = "",
) -> str:
    """A page of a title, warnings, contents and sections. The same input gives the same bytes.

    Args:
      title: heading of the page.
      sections: made by `section`, in the order in which they are shown.
      kind: what the page is, above the title.
      details: one line below the title.
      warnings: sentences shown before everything else.
      data_file: name of the file beside the page that holds all figures; the page refers to it where a table is cut.

    Returns:
      HTML that loads nothing: style and charts are inside, its content policy forbids scripts and requests.

    Raises:
      DataError: a section or block that is not one, or a key that occurs twice.
      MissingExtraError: jinja2 or matplotlib is not installed.
    """
    check_sections(sections)
    return fill_template(
        _ROOM,
        "page.html",
        title=title,
        kind=kind,
        details=details,
        warnings=warnings,
        sections=draw_sections(sections),
        data_file=data_file,
    )


def fill_template(package: str, name: str, **values: Any) -> str:
    """A template filled in, as the text of a file.

    Args:
      package: the package that holds the template, such as `seqrec_jax.evaluation.report`.
      name: file name of the template, which may extend `page.html` and import from `blocks.html`.
      **values: the names that the template uses. `page.html` takes `title`, `kind`, `details`, `warnings`,
        `sections` (of `draw_sections`) and `data_file`, all optional.

    Returns:
      The page.

    Raises:
      MissingExtraError: jinja2 is not installed.
    """
    page: str = _environment(load_extra("jinja2"), package).get_template(name).render(**values)
    # JSON can carry a lone surrogate, which has no UTF-8 form; the page must be writable all the same
    return page.lstrip().encode("utf-8", "replace").decode("utf-8")


def draw_sections(sections: Sequence[Section]) -> list[DrawnSection]:
    """Sections with their blocks as charts and tables, each with an anchor of its own.

    Raises:
      DataError: a block that is not one.
      MissingExtraError: matplotlib is not installed.
    """
    return [
        DrawnSection(
            id=f"section-{part['key']}",
            title=part["title"],
            summary=part["summary"],
            blocks=[draw_block(block, name=f"chart-{place}-{number}") for number, block in enumerate(part["blocks"])],
        )
        for place, part in enumerate(sections)
    ]


def check_sections(sections: Sequence[Mapping[str, Any]], *, where: str = "sections") -> None:
    """Raise a DataError for the first section that `draw_sections` cannot draw.

    Args:
      sections: perhaps read back from JSON.
      where: what to call them in the message, such as `metrics.json: sections`.

    Raises:
      DataError: a missing key, a key that is no anchor or occurs twice, or a block that is not one.
    """
    keys: set[str] = set()
    for place, part in enumerate(sections):
        if not {"key", "title", "summary", "blocks"} <= set(part):
            raise DataError(f"{where}[{place}] needs key, title, summary and blocks, found {sorted(part)}")
        if not re.fullmatch(r"[\w-]+", str(part["key"])) or part["key"] in keys:
            raise DataError(
                f"{where}[{place}]: the key {part['key']!r} must be unique, of letters, digits and underscores"
            )
        keys.add(part["key"])
        for block in part["blocks"]:
            check_block(block, f"{where}[{place}]")


@cache
def _environment(jinja2: ModuleType, package: str) -> Any:
    """The templates of a package and of this one, with the wording of figures as filters."""

    def read(name: str) -> str | None:
        for room in (package, _ROOM):
            if (file := files(room).joinpath(name)).is_file():
                return file.read_text("utf-8")
        return None

    # most values are optional, at any depth; what is required is checked before
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(read),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        figure=format_figure,
        gain=lambda value: format_figure(value, signed=True),
        interval=lambda row, signed=False: format_interval(row or None, signed=signed),
        p_value=format_p,
        score=lambda value: f"{value:.4g}".replace("-", "−") if is_finite(value) else "–",
        count=format_count,
        percent=format_percent,
        short=shorten,
    )
    environment.globals.update(most_rows=MAX_ROWS, is_number=is_finite)
    return environment
