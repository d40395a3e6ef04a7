"""Gene panels: lists of gene symbols, one a line, or as HEST-Benchmark writes them in JSON."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from nh2st_graph._errors import DataError
from nh2st_graph._files import parse_json, read_text
from nh2st_graph.section import SYMBOL_COLUMNS

__all__ = ["read_panel"]

#: Words that stand over a list of genes and are none: names of columns, and what R and pandas write over a list.
_HEADERS = SYMBOL_COLUMNS | {
    *("genes", "gene_id", "gene_ids", "ensembl", "ensembl_id", "ensembl_gene_id", "ensembl_ids", "geneid", "gene_list"),
    *("feature", "feature_id", "var_names", "names", "name", "index", "hgnc", "panel", "x", "0"),
}


def read_panel(path: str | Path) -> list[str]:
    """Read a gene panel.

    Parameters
    ----------
    path
        A text file with one gene symbol or Ensembl id a line. Blank lines, comments after a ``#``, and a header such as
        ``gene`` are ignored. Or a table (``.csv``, ``.tsv``) whose header names the column of genes. Or JSON: a list,
        or a list under ``genes``, as HEST-Benchmark has it.

    Returns
    -------
    The names in the order of the file.

    Raises
    ------
    DataError
        If the file is missing, is not text, holds no gene or one gene twice, or has several words on a line.
    """
    path = Path(path)
    text = read_text(path, "gene panel", "give a file of gene symbols, one a line")
    is_json = path.suffix.lower() == ".json" or text.lstrip()[:1] in {"{", "["}
    lines = _in_json(text, path) if is_json else _in_lines(text, path)
    first: dict[str, int] = {}
    for number, symbol in lines:
        if len(symbol.split()) > 1:
            raise DataError(f"gene panel {path}, line {number}: {symbol!r} is not one symbol; write one a line")
        if symbol in first:
            raise DataError(f"gene panel {path}: {symbol!r} is on lines {first[symbol]} and {number}; remove one")
        first[symbol] = number
    if not first:
        raise DataError(f"gene panel {path} holds no gene; give gene symbols, one a line")
    return list(first)


def _in_lines(text: str, path: Path) -> list[tuple[int, str]]:
    """Give the genes of a text with the numbers of their lines."""
    lines = [(number, line.partition("#")[0].strip()) for number, line in enumerate(text.splitlines(), start=1)]
    lines = [(number, line) for number, line in lines if line]
    separator = next((mark for mark in ",\t;" if lines and mark in lines[0][1]), None)
    if separator is not None:
        return _in_table(lines, separator, path)
    lines = [(number, line.strip("\"'")) for number, line in lines]
    if len(lines) > 1 and lines[0][1].lower() in _HEADERS:
        return lines[1:]
    return lines


def _in_table(lines: list[tuple[int, str]], separator: str, path: Path) -> list[tuple[int, str]]:
    """Give the genes of a table by the column that its header names."""
    rows = [[cell.strip() for cell in row] for row in csv.reader([line for _, line in lines], delimiter=separator)]
    columns = [at for at, name in enumerate(rows[0]) if name.lower() in _HEADERS]
    if not columns:
        raise DataError(
            f"gene panel {path} has several columns ({', '.join(rows[0][:5])}), and none is named gene or symbol; "
            "give one symbol a line"
        )
    cells = [
        (number, row[columns[0]] if columns[0] < len(row) else "") for (number, _), row in zip(lines, rows, strict=True)
    ]
    return [(number, cell) for number, cell in cells[1:] if cell]


def _in_json(text: str, path: Path) -> list[tuple[int, str]]:
    """Give the genes of a JSON list, or of the list under a key such as ``genes``, numbered from 1."""
    try:
        given: Any = parse_json(text)
    except ValueError as error:
        raise DataError(f"gene panel {path} is not valid JSON ({error}); give a list of gene symbols") from None
    if isinstance(given, dict):
        lists = {str(key): value for key, value in given.items() if isinstance(value, list)}
        named = [key for key in lists if key.lower() in _HEADERS] or list(lists)
        if len(named) != 1:
            there = ", ".join(map(str, list(given)[:5])) or "nothing"
            raise DataError(f"gene panel {path} has no list 'genes' (there: {there}); give {{\"genes\": [...]}}")
        given = lists[named[0]]
    if not isinstance(given, list) or not all(isinstance(gene, str) for gene in given):
        raise DataError(f'gene panel {path} is no list of gene symbols; give {{"genes": [...]}}')
    return [(number, gene.strip()) for number, gene in enumerate(given, start=1)]
