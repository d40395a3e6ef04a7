"""What genes are called: symbols or Ensembl ids, of which species, and how a section finds a panel's genes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from nh2st_graph._errors import DataError
from nh2st_graph.section._access import section_name

__all__ = ["FoundGenes", "Naming", "find_genes", "genes_by_name", "mismatch", "name_columns", "naming", "species"]

logger = logging.getLogger("nh2st_graph")

Naming = Literal["symbols", "Ensembl ids"]

#: ENSG... of humans, ENSMUSG... of mice, ...; with the version that GENCODE appends, or without.
_ENSEMBL = r"ENS([A-Z]*)G\d+(?:\.\d+)?(?:_PAR_Y)?$"
_SPECIES = {"": "human", "MUS": "mouse", "RNO": "rat"}

#: Columns of ``var`` that hold symbols, in lower case and before the ``-0`` that concatenation appends. Ids are told by
#: what they look like.
_SYMBOL_COLUMNS = frozenset(
    {
        *("symbol", "symbols", "gene", "gene_name", "gene_names", "gene_symbol", "gene_symbols", "gene_short_name"),
        *("genesymbol", "genename", "feature_name", "features", "hgnc_symbol", "mgi_symbol", "external_gene_name"),
    }
)


def naming(names: Iterable[str]) -> Naming:
    """Tell whether most of some names are Ensembl ids."""
    index = _index(names)
    return "Ensembl ids" if len(index) and index.str.match(_ENSEMBL).mean() > 0.5 else "symbols"


def species(names: Iterable[str]) -> str | None:
    """Tell the species of most names: of ids by their letters, of symbols by their case; None where nothing tells.

    Human symbols are written in capitals (``ACTB``), those of mice and rats with one (``Actb``).
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
    """Where the genes of a panel are in a section.

    Attributes
    ----------
    positions
        ``(n_genes,)``, of the panel's genes in ``var``; -1 of one that the section lacks.
    by
        What they were found by, where that is not ``var_names`` as they are.
    several
        Genes that the section has more than once under that name. The first in order of ``var_names`` is meant.
    """

    positions: NDArray[np.intp]
    by: str | None = None
    several: tuple[str, ...] = ()

    @property
    def all_there(self) -> bool:
        """Whether the section has the whole panel."""
        return bool((self.positions >= 0).all())

    def log(self, section: str) -> None:
        """Say how many genes were found, by what, and which are ambiguous, where it was not by ``var_names``."""
        if self.by is None:
            return
        text = f"{int((self.positions >= 0).sum())} of {len(self.positions)} panel genes found, by {self.by}"
        if self.several:
            shown = ", ".join(self.several[:5]) + (", ..." if len(self.several) > 5 else "")
            text += f"; {len(self.several)} stand for several genes there, the first of which is taken: {shown}"
        logger.info("section %r: %s", section, text)


def find_genes(adata: AnnData, genes: Sequence[str]) -> FoundGenes:
    """Find a panel's genes in a section, whichever of symbols and Ensembl ids each of them is named by.

    Parameters
    ----------
    adata
        One section. Genes that are not among its ``var_names`` are looked for in the column of ``var`` that holds the
        panel's kind of names, if there is one; and ids without their versions.
    genes
        The panel.
    """
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


def genes_by_name(sections: Mapping[str, AnnData]) -> tuple[dict[str, pd.Series], str | None]:
    """Names of each section's genes, all symbols or all Ensembl ids.

    Symbols where the sections do not agree and each of them has some; ids without their versions.

    Parameters
    ----------
    sections
        Sections with genes, by name.

    Returns
    -------
    Of each section the position in ``var`` of every gene, by name; and which names were taken and from where, where
    sections do not agree.

    Raises
    ------
    DataError
        If some have symbols and others ids, and neither is there in all.
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
            return tables, f"sections do not name genes alike; {kind} are taken, from {said}" if mixed else None
    one, other = (next(name for name, each in kinds.items() if each == kind) for kind in choices)
    raise DataError(
        f"section {one!r} names genes by symbols, section {other!r} by Ensembl ids, and not every section has a column "
        "of the others in var; add adata.var['gene_name'] with symbols, or adata.var['gene_ids'], where it is missing"
    )


def mismatch(adata: AnnData, genes: Sequence[str], panel: str) -> str | None:
    """Say why a section has hardly a gene of a panel, and what to do; None where their names do not tell.

    Parameters
    ----------
    adata
        One section.
    genes
        The panel.
    panel
        What to call it.
    """
    kind, where = naming(genes), f"section {section_name(adata)!r}"
    named = _names(adata, kind)
    if named is None and kind == "symbols":
        return (
            f"{panel} holds symbols, {where} has Ensembl ids ({adata.var_names[0]}, ...) and no column of symbols in "
            "var; add adata.var['gene_name'], or give a panel of Ensembl ids"
        )
    if named is None:
        return (
            f"{panel} holds Ensembl ids, {where} has symbols ({adata.var_names[0]}, ...) and no column of ids in var; "
            "add adata.var['gene_ids'], or give a panel of symbols"
        )
    theirs, ours = species(named.names[named.names != ""]), species(genes)
    if theirs and ours and theirs != ours:
        return (
            f"{panel} looks like {ours} genes ({genes[0]}, ...), {where} like {theirs} ones ({named.names[0]}, ...); "
            "give a panel of the section's species, genes are not translated to another"
        )
    return None


def name_columns(var: pd.DataFrame) -> pd.DataFrame:
    """Columns of ``var`` that name genes: ids, told by what they look like, and symbols, by what the column is called.

    Returns
    -------
    Text, empty where there is no name.
    """
    found = {}
    for column in var:
        if not pd.api.types.is_numeric_dtype(var[column]):
            names = var[column].astype(object).where(var[column].notna(), "").astype(str)
            is_symbols = str(column).lower().split("-")[0] in _SYMBOL_COLUMNS
            if is_symbols or naming(names[names != ""]) == "Ensembl ids":
                found[str(column)] = names
    return pd.DataFrame(found, index=var.index)


class _Names(NamedTuple):
    """Names of a section's genes, empty where it has none, and where they come from, if not ``var_names`` as such."""

    names: pd.Index
    by: str | None


def _names(adata: AnnData, kind: Naming) -> _Names | None:
    """Give names of one kind for a section's genes: ``var_names``, or the column of ``var`` that has most of them."""
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
    """Give ids without their versions; symbols as they are."""
    return names.astype(str).str.replace(r"\..*$", "", regex=True) if kind == "Ensembl ids" else names.astype(str)


def _first(adata: AnnData, names: pd.Index) -> tuple[pd.Series, pd.Index]:
    """Position of each name, the first in order of ``var_names``, so that no file's order matters; and the repeated."""
    order = np.argsort(adata.var_names.to_numpy(dtype=str), kind="stable")
    places = pd.Series(order, index=names[order])
    places = places[places.index != ""]
    twice = places.index.duplicated()
    return places[~twice], places.index[twice].unique()
