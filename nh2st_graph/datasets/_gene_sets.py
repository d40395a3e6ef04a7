"""Gene sets in GMT, the format of MSigDB and Enrichr."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nh2st_graph._errors import DataError, nearest
from nh2st_graph._files import read_text

__all__ = ["read_gene_sets"]

_FORM = "a set a line: its name, a description, and its genes, with tabs between"


def read_gene_sets(source: str | Path) -> dict[str, list[str]]:
    """Read gene sets.

    Parameters
    ----------
    source
        A file in GMT: on each line the name of a set, a description (often a link) and its genes, with tabs between.
        ``FILE.gmt:NAME,NAME`` takes some sets of it.

    Returns
    -------
    Genes by the name of their set, each once, in the order of the file.

    Raises
    ------
    DataError
        If the file is missing, is not GMT, names a set twice, or does not hold a set.
    """
    path, wanted = _split(str(source))
    text = read_text(path, "gene sets", f"give a file in GMT: {_FORM}")
    found: dict[str, list[str]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        name, *rest = (cell.strip() for cell in line.split("\t"))
        # Enrichr writes a weight after a gene: TP53,1.0
        genes = list(dict.fromkeys(cell.partition(",")[0] for cell in rest[1:] if cell))
        if not name or not genes:
            raise DataError(f"gene sets {path}, line {number}, is not GMT; write {_FORM}")
        if name in found:
            raise DataError(f"gene sets {path}, line {number}: set {name!r} stands there twice; remove or rename one")
        found[name] = genes
    if not found:
        raise DataError(f"gene sets {path} are empty; write {_FORM}")
    return _chosen(found, wanted, path)


def _split(source: str) -> tuple[Path, list[str]]:
    """Split a source into its file and the names of sets."""
    file, mark, names = source.rpartition(":")
    if mark and file.lower().endswith(".gmt"):
        return Path(file), [name.strip() for name in names.split(",") if name.strip()]
    return Path(source), []


def _chosen(found: Mapping[str, list[str]], wanted: list[str], path: Path) -> dict[str, list[str]]:
    for name in wanted:
        if name not in found:
            raise DataError(f"gene sets {path} have no set {name!r}; {nearest(name, found)}")
    return {name: found[name] for name in wanted or found}
