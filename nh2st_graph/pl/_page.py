"""Write pages: HTML files that open offline, with their figures in them."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib import rc_context
from matplotlib.figure import Figure, SubFigure

from nh2st_graph._files import write_text

__all__ = ["as_data_uri", "write_page"]

#: Pixels per inch of a figure with photographs, and its quality in percent.
_DPI, _QUALITY = 110, 85


def write_page(path: Path, room: str, template: str, **values: Any) -> Path:
    """Write a page.

    A page extends ``page.html.j2``, which has its style and the script that sorts and filters tables; its content
    policy forbids it to load anything. All names and texts are escaped.

    Parameters
    ----------
    path
        The file.
    room, template
        Folder of the package that has the template, and its name.
    values
        What the template shows.

    Returns
    -------
    The path.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader("nh2st_graph", folder) for folder in (room, "pl")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {}  # by default, names would be sorted
    write_text(path, environment.get_template(template).render(**values))
    return path


def as_data_uri(figure: Figure | SubFigure, *, photo: bool = False) -> str:
    """Write a figure into an address (a data URI), and close it; the same numbers give the same text.

    Parameters
    ----------
    figure
        The figure.
    photo
        Whether it holds photographs: it becomes WebP, and SVG otherwise.
    """
    whole = figure.figure if isinstance(figure, SubFigure) else figure
    buffer = io.BytesIO()
    if photo:
        whole.savefig(buffer, format="webp", dpi=_DPI, pil_kwargs={"quality": _QUALITY})
    else:
        with rc_context({"svg.hashsalt": "nh2st_graph"}):
            whole.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(whole)
    kind = "webp" if photo else "svg+xml"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
