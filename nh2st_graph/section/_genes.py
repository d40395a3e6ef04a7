"""Names of genes: symbols or Ensembl ids, their species, and how to find the genes of a panel in a section."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from nh2st_graph._errors import DataError, listed
from nh2st_graph.section._access import section_name

__all__ = [
    "SYMBOL_COLUMNS",
    "FoundGenes",
    "Naming",
    "find_genes",
    "genes_by_name",
    "mismatch",
    "name_columns",
    "naming",
    "same_genes",
    "species",
]

logger = logging.getLogger("nh2st_graph")

Naming = Literal["symbols", "Ensembl ids"]

#: ENSG... (human), ENSMUSG... (mouse) and so on, with or without the version that GENCODE appends.
_ENSEMBL = r"ENS([A-Z]*)G\d+(?:\.\d+)?(?:_PAR_Y)?$"
_SPECIES = {"": "human", "MUS": "mouse", "RNO": "rat"}

#: Names of the columns of ``var`` that hold symbols: in lower case, without the ``-0`` that concatenation appends.
#: Columns of ids need no list, because ids have a form of their own.
SYMBOL_COLUMNS = frozenset(
    {
        *("symbol", "symbols", "gene", "gene_name", "gene_names", "gene_symbol", "gene_symbols", "gene_short_name"),
        *("genesymbol", "genename", "feature_name", "features", "hgnc_symbol", "mgi_symbol", "external_gene_name"),
    }
)


def naming(names: Iterable[str]) -> Naming:
    """Say whether most names are Ensembl ids or symbols."""
    index = _index(names)
    return "Ensembl ids" if len(index) and index.str.match(_ENSEMBL).mean() > 0.5 else "symbols"


def species(names: Iterable[str]) -> str | None:
    """Guess the species of most names, from the letters of ids and from the case of symbols.

    Human symbols are written in capitals (``ACTB``), those of mice and rats with one (``Actb``).

    Returns
    -------
    The species; None if the names do not show it.
    """
    index = _index(names)
    if naming(index) == "Ensembl ids":
        letters = index.str.extract(_ENSEMBL)[0].dropna()
        return _SPECIES.get(letters.mode()[0])
    if not len(index):
        return None
    if index.str.match(r"[A-Z][a-z]").mean() > 0.5:
        return "mouse"
    return "human" if index.str.match(r"[A-Z][A-Z0-9.-]+$").mean() > 0.8 else None


class FoundGenes(NamedTuple):
    """Positions of a panel's genes in a section.

    Attributes
    ----------
    positions
        ``(n_genes,)``, position in ``var`` of each gene of the panel; -1 if the section lacks it.
    by
        Names that the genes were found by; None for ``var_names`` as they are.
    several
        Genes that the section has more than once under that name. The first in order of ``var_names`` counts.
    """

    positions: NDArray[np.intp]
    by: str | None = None
    several: tuple[str, ...] = ()

    @property
    def all_there(self) -> bool:
        """Whether the section has every gene of the panel."""
        return bool((self.positions >= 0).all())

    def log(self, section: str) -> None:
        """Log how many genes were found by other names than ``var_names``, and which of them are ambiguous."""
        if self.by is None:
            return
        text = f"{int((self.positions >= 0).sum())} of {len(self.positions)} panel genes found, by {self.by}"
        if self.several:
            text += f"; {len(self.several)} are there more than once, and the first is taken: {listed(self.several)}"
        logger.info("section %r: %s", section, text)


def find_genes(adata: AnnData, genes: Sequence[str]) -> FoundGenes:
    """Find the genes of a panel in a section, if one names them by symbols and the other by Ensembl ids, too.

    Parameters
    ----------
    adata
        One section. Genes that are not in its ``var_names`` are looked up in the column of ``var`` that has names of
        the panel's kind. Versions of ids are ignored.
    genes
        The panel: symbols or Ensembl ids.

    Raises
    ------
    DataError
        If two genes of the section have one name in ``var_names``.
    """
    if not adata.var_names.is_unique:
        raise DataError(f"section {section_name(adata)!r}: {same_genes(adata)}")
    positions = np.asarray(adata.var_names.get_indexer(list(genes)), dtype=np.intp)
    absent = positions < 0
    kind = naming(genes)
    named = _names(adata, kind) if absent.any() and adata.n_vars else None
    if named is None or named.by is None:
        return FoundGenes(positions)
    wanted = _plain(_index(genes), kind)[absent]
    places, several = _first(adata, named.names)
    positions[absent] = places.reindex(wanted, fill_value=-1).to_numpy()
    if (positions[absent] < 0).all():
        return FoundGenes(positions)
    return FoundGenes(positions, named.by, tuple(str(gene) for gene in wanted[wanted.isin(several)]))


def same_genes(adata: AnnData) -> str:
    """Say which gene ``var_names`` has more than once, and what to do."""
    twice = adata.var_names[adata.var_names.duplicated()][0]
    return f"gene {twice!r} occurs more than once; call adata.var_names_make_unique()"


def genes_by_name(sections: Mapping[str, AnnData]) -> tuple[dict[str, pd.Series], str | None]:
    """Name the genes of all sections alike, by symbols or by Ensembl ids.

    Names are those of ``var_names``, if all sections use the same kind. Else they are symbols, if each section has a
    column of symbols, or ids. Ids have no versions.

    Parameters
    ----------
    sections
        Sections with genes, by name.

    Returns
    -------
    For each section the position in ``var`` of every gene, by name. And a message about the names, if sections use
    different kinds; else None.

    Raises
    ------
    DataError
        If some sections have symbols and others ids, and no kind exists in all of them.
    """
    kinds = {name: naming(section.var_names) for name, section in sections.items()}
    mixed = len(set(kinds.values())) > 1
    choices: list[Naming] = ["symbols", "Ensembl ids"] if mixed else list(set(kinds.values()))
    for kind in choices:
        named = {name: _names(section, kind) for name, section in sections.items()}
        known = {name: each for name, each in named.items() if each is not None}
        if len(known) == len(sections):
            said = ", ".join(f"{each.by} of section {name!r}" for name, each in known.items() if kinds[name] != kind)
            tables = {name: _first(sections[name], each.names)[0] for name, each in known.items()}
            return tables, f"sections name genes differently; {kind} are taken, from {said}" if mixed else None
    one, other = (next(name for name, each in kinds.items() if each == kind) for kind in choices)
    raise DataError(
        f"section {one!r} names genes by symbols, section {other!r} by Ensembl ids, and no kind is in var of every "
        "section; add adata.var['gene_name'] with symbols, or adata.var['gene_ids'] with ids, where it is missing"
    )


def mismatch(adata: AnnData, genes: Sequence[str], panel: str) -> str | None:
    """Explain why a section lacks most genes of a panel.

    Parameters
    ----------
    adata
        One section.
    genes
        The panel.
    panel
        What the message calls the panel.

    Returns
    -------
    The reason and what to do; None if the names do not show it.
    """
    kind, where = naming(genes), f"section {section_name(adata)!r}"
    named = _names(adata, kind)
    if named is None and kind == "symbols":
        return (
            f"{panel} has symbols, {where} has Ensembl ids ({adata.var_names[0]}, ...) and no column of symbols in "
            "var; add adata.var['gene_name'], or give a panel of Ensembl ids"
        )
    if named is None:
        return (
            f"{panel} has Ensembl ids, {where} has symbols ({adata.var_names[0]}, ...) and no column of ids in var; "
            "add adata.var['gene_ids'], or give a panel of symbols"
        )
    theirs, ours = species(named.names[named.names != ""]), species(genes)
    if theirs and ours and theirs != ours:
        return (
            f"{panel} looks like {ours} genes ({genes[0]}, ...), {where} like {theirs} ones ({named.names[0]}, ...); "
            "give a panel of the section's species, because genes are not translated between species"
        )
    return None


def name_columns(var: pd.DataFrame) -> pd.DataFrame:
    """Find the columns of ``var`` that name genes: ids by their form, symbols by the name of the column.

    Returns
    -------
    The columns as text, with empty strings for missing names.
    """
    found = {}
    for column in var:
        if not pd.api.types.is_numeric_dtype(var[column]):
            names = var[column].astype(object).where(var[column].notna(), "").astype(str)
            is_symbols = str(column).lower().split("-")[0] in SYMBOL_COLUMNS
            if is_symbols or naming(names[names != ""]) == "Ensembl ids":
                found[str(column)] = names
    return pd.DataFrame(found, index=var.index)


class _Names(NamedTuple):
    """Names of a section's genes (empty if missing), and their column; None for ``var_names`` as they are."""

    names: pd.Index
    by: str | None


def _names(adata: AnnData, kind: Naming) -> _Names | None:
    """Find names of one kind for a section's genes: ``var_names``, or the column of ``var`` that has most of them."""
    if naming(adata.var_names) == kind:
        return _Names(_plain(adata.var_names, kind), "ids without version" if kind == "Ensembl ids" else None)
    columns = name_columns(adata.var)
    known = {
        str(name): int((names != "").sum()) for name, names in columns.items() if naming(names[names != ""]) == kind
    }
    column = max(sorted(known), key=lambda name: known[name], default=None)
    if column is None or not known[column]:
        return None
    return _Names(_plain(pd.Index(columns[column]), kind), f"var['{column}']")


def _index(names: Iterable[str]) -> pd.Index:
    return pd.Index(list(names)).astype(str)


def _plain(names: pd.Index, kind: Naming) -> pd.Index:
    """Remove the versions of ids; leave symbols as they are."""
    return names.astype(str).str.replace(r"\..*$", "", regex=True) if kind == "Ensembl ids" else names.astype(str)


def _first(adata: AnnData, names: pd.Index) -> tuple[pd.Series, pd.Index]:
    """Look up the position of each name, and the names that occur twice.

    Of two genes with one name the first in order of ``var_names`` counts, so the order in the file does not matter.
    """
    order = np.argsort(adata.var_names.to_numpy(dtype=str), kind="stable")
    places = pd.Series(order, index=names[order])
    places = places[places.index != ""]
    twice = places.index.duplicated()
    return places[~twice], places.index[twice].unique()
