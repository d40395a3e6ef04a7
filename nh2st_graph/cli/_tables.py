"""What a command prints at its end: the scores, and where things are."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import pandas as pd

    from nh2st_graph.tl import Evaluation, Run

__all__ = [
    "free_width",
    "in_bytes",
    "print_cells",
    "print_findings",
    "print_paths",
    "print_run",
    "print_table",
    "shortened_name",
]

#: A name longer than this is broken between words, so that a narrow terminal holds numbers beside it.
_NAME_WIDTH = 24
#: Genes without a measurable noise ceiling that are named.
_NAMED = 3
#: What a column takes beside its text, and the table beside its columns.
_PADDING, _EDGES = 3, 2


def print_run(run: Run) -> None:
    """Print a run's scores beside the baselines and references, what was found, and the run's files."""
    from nh2st_graph.metrics import RUN_SCORES

    evaluation = run.evaluation
    if evaluation is not None:
        protocol = evaluation.metrics["protocol"]
        title = (
            f"Scores on {', '.join(protocol['test'])} (trained on {', '.join(protocol['train'])}, "
            f"{protocol['split']}; {protocol['n_genes']} genes, normalised by {protocol['normalize']}"
            + (", targets smoothed 3x3)" if protocol["smooth"] == "3x3" else ")")
        )
        table = evaluation.table().reindex(columns=list(RUN_SCORES))
        print_table(table.rename(index=evaluation.labels, columns=RUN_SCORES), title)
        Console().print(
            "r is a gene's correlation over the spots of a section, averaged over genes. 'Given depth' takes out what "
            "the number of counts in a spot explains. The noise ceiling estimates what a perfect predictor would "
            f"score; by chance, single genes pass theirs.{_without_ceiling(evaluation)}",
            style="dim",
        )
    print_findings(run)
    print_paths(run.outputs())


def print_findings(run: Run) -> None:
    """Print which genes can be read from which slides, and where all of it is seen."""
    console = Console(soft_wrap=True)
    found = run.findings()
    for sentence in found:
        console.print(f"{sentence}.", markup=False, highlight=False)
    if found and run.report.exists():
        console.print(f"Open {run.report} to see all of it.", markup=False, highlight=False)


def _without_ceiling(evaluation: Evaluation) -> str:
    """Say how many genes have no measurable noise ceiling in any test section, and name some."""
    first, *others = evaluation.metrics["genes_without_ceiling"].values()
    genes = [gene for gene in first if all(gene in each for each in others)]
    if not genes:
        return ""
    names = ", ".join(genes[:_NAMED]) + (" and others" if len(genes) > _NAMED else "")
    n_genes = evaluation.metrics["protocol"]["n_genes"]
    return f" {len(genes)} of {n_genes} genes have none that can be measured: their counts are too few ({names})."


def print_table(table: pd.DataFrame, title: str) -> None:
    """Print numbers with three decimals, the first row set off."""
    import pandas as pd

    text = table.map(lambda value: "-" if pd.isna(value) else f"{value:.3f}")
    print_cells(Console(), text, ["bold", *[""] * (len(text) - 1)], title)


def print_cells(console: Console, text: pd.DataFrame, styles: list[str], title: str) -> None:
    """Print a table whose cells are text, one style a row; as several where the console is too narrow for one."""
    if title:
        console.print(Text(title, style="table.title"))
    for part in _that_fit(text, console.width):
        shown = Table(header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        shown.add_column("")
        # What is left of the console is for headers, which are folded otherwise.
        spare = free_width(console, part, "") // part.shape[1]
        for column, cells in part.items():
            header = Text(textwrap.fill(str(column), _width(column, cells) + max(spare, 0)))
            shown.add_column(header, justify="right", no_wrap=True)
        for (name, row), style in zip(part.iterrows(), styles, strict=True):
            shown.add_row(Text(str(name)), *(Text(cell.rstrip()) for cell in row), style=style)
        console.print(shown)


def _that_fit(text: pd.DataFrame, width: int) -> Iterator[pd.DataFrame]:
    """Take as many columns together as a console holds beside the names."""
    left = beside = width - _EDGES - min(max(len(str(name)) for name in text.index), _NAME_WIDTH)
    start = 0
    for i, (column, cells) in enumerate(text.items()):
        taken = _width(column, cells) + _PADDING
        if start < i and taken > left:
            yield text.iloc[:, start:i]
            start, left = i, beside
        left -= taken
    yield text.iloc[:, start:]


def free_width(console: Console, text: pd.DataFrame, column: str) -> int:
    """Say how wide a column of :func:`print_cells` may be, so that all are in one table."""
    others = sum(_width(name, cells) + _PADDING for name, cells in text.items() if name != column)
    return console.width - _EDGES - min(max(len(str(name)) for name in text.index), _NAME_WIDTH) - others - _PADDING


def _width(column: object, cells: Iterable[str]) -> int:
    """Width of a column: that of its cells, and of the longest word of its header."""
    return max(map(len, [*str(column).split(), *(line for cell in cells for line in cell.splitlines())]))


def in_bytes(size: float) -> str:
    """Write a size in the largest unit of which there is one."""
    if size >= 1e9:
        return f"{size / 1e9:,.1f} GB"
    for unit, factor in (("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.0f} bytes"


def shortened_name(name: str, most: int) -> str:
    """Leave out the middle of a long name: the beginning says its kind, and the end which it is."""
    head = (most - 1) // 3
    return name if len(name) <= most else f"{name[:head]}\N{HORIZONTAL ELLIPSIS}{name[head + 1 - most :]}"


def print_paths(paths: Iterable[Path]) -> None:
    """Print what was written, one path a line, whole, so that it can be copied; nothing if it is nothing."""
    if not (paths := list(paths)):
        return
    console = Console(soft_wrap=True)
    console.print("Written:")
    for path in paths:
        console.print(f"  {path}", highlight=False, markup=False)
