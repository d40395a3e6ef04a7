"""Write the page of a predicted slide: one HTML file that opens offline, for whoever reads the slide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from nh2st_graph import __version__, pl
from nh2st_graph.confidence import best_reliable, call, unfamiliar_spots
from nh2st_graph.section import Key, Library, libraries, library, section_name, target_in_words
from nh2st_graph.tl._found import evidence_of, kind_of, readable
from nh2st_graph.tl._named import asks_for_reliable
from nh2st_graph.tl._page_tables import UNNAMED, Cell, Table, gene_table, number, slides_in_words
from nh2st_graph.train import FittedModel

__all__ = ["write_slide_page"]

#: Genes and signatures whose maps are drawn; genes that are named are drawn up to the larger number.
_MAPPED, _NAMED, _SIGNATURES = 4, 8, 6
#: Spots that are unlike training are warned of from this share on.
_MANY_UNLIKE = 0.05
_LEVEL = 0.1


def write_slide_page(
    model: FittedModel,
    prediction: AnnData,
    path: Path,
    *,
    genes: str | Sequence[str] | None = None,
    signatures: pd.DataFrame | None = None,
    figures: bool = True,
) -> Path:
    """Write the page of a slide.

    Parameters
    ----------
    model
        The model that predicted it.
    prediction
        The prediction.
    path
        The file.
    genes
        Genes that were asked for: those named are drawn. Otherwise the best reliable ones are, or the best ones where
        none is reliable.
    signatures
        What :func:`score_signatures` gave, with the scores in ``obs``.
    figures
        Whether to draw maps.

    Returns
    -------
    The path.
    """
    mapped, evidence = _mapped(prediction, genes), evidence_of(model, prediction)
    shown = (
        _Figures(prediction) if figures and libraries(prediction) and library(prediction).hires is not None else None
    )
    coverage = None if evidence is None else str(evidence.coverage(model.config.evaluate.coverage))
    return pl.write_page(
        path,
        "tl",
        "slide.html.j2",
        title=f"Slide {section_name(prediction)}",
        version=__version__,
        findings=_findings(model, prediction),
        warnings=_warnings(model, prediction, mapped),
        coverage=coverage,
        kind=slides_in_words(model.confidence, kind_of(prediction)),
        maps=shown.genes(mapped) if shown is not None and mapped else None,
        familiarity=shown.familiarity() if shown is not None and Key.obs.familiarity in prediction.obs else None,
        genes=_genes(model, prediction),
        n_reliable=int(prediction.var[Key.var.reliable].sum()) if Key.var.reliable in prediction.var else 0,
        regions=_regions(prediction, mapped) if Key.obs.annotation in prediction.obs else None,
        signatures=None if signatures is None else _signatures(signatures),
        signature_maps=[] if shown is None or signatures is None else shown.signatures(signatures),
        protocol=_protocol(model, prediction),
    )


class _Figures:
    """Maps of one slide."""

    def __init__(self, prediction: AnnData) -> None:
        self.prediction, self.name = prediction, section_name(prediction)

    def genes(self, genes: list[str]) -> dict[str, str]:
        """Draw genes beside the image."""
        alt = f"Slide {self.name}: H&E image and predicted expression of {', '.join(genes)}"
        return {"image": pl.as_data_uri(pl.gene_maps(self.prediction, genes), photo=True), "alt": alt}

    def familiarity(self) -> dict[str, str]:
        """Draw how familiar spots are."""
        share = unfamiliar_spots(self.prediction).mean()
        alt = f"Slide {self.name}: familiarity of each spot on the tissue; {share:.1%} of them are unlike training"
        return {"image": pl.as_data_uri(pl.familiarity(self.prediction).figure, photo=True), "alt": alt}

    def signatures(self, signatures: pd.DataFrame) -> list[dict[str, str]]:
        """Draw the scores of the signatures whose genes are worth most."""
        best = signatures[signatures["column"] != ""].nlargest(_SIGNATURES, Key.var.held_out_partial)
        found = []
        for name, row in best.iterrows():
            axes = pl.spot_values(self.prediction, row["column"], label="score")
            axes.set_title(str(name))
            alt = f"{name}: score of {row['n_reliable']} reliable genes"
            found.append({"image": pl.as_data_uri(axes.figure, photo=True), "alt": alt})
        return found


def _mapped(prediction: AnnData, genes: str | Sequence[str] | None) -> list[str]:
    """Choose the genes whose maps are drawn."""
    there = ~np.isnan(np.asarray(prediction.X)).all(axis=0)
    if genes is not None and not asks_for_reliable(genes):
        named = [genes] if isinstance(genes, str) else list(genes)
        return [gene for gene in named if there[prediction.var_names.get_loc(gene)]][:_NAMED]
    if Key.var.reliable not in prediction.var:
        return [str(gene) for gene in prediction.var_names[there]][:_MAPPED]
    best = best_reliable(prediction.var, _MAPPED)
    others = prediction.var.loc[there, Key.var.held_out_partial].dropna().nlargest(_MAPPED).index
    return best or [str(gene) for gene in others]


def _findings(model: FittedModel, prediction: AnnData) -> list[str]:
    """Say whether the slide is like training, and which genes can be read from it."""
    name, found = section_name(prediction), []
    verdict = prediction.uns[Key.uns.prediction].get(Key.prediction.familiarity, {})
    if verdict:
        share = float(unfamiliar_spots(prediction).mean())
        spots = f"{share:.1%} of its {prediction.n_obs:,} spots are unlike training"
        if verdict.get("unlike"):
            found.append(f"{name} is unlike the training sections ({verdict['reasons']}); {spots}")
        else:
            found.append(f"{name} looks like the training sections; {spots}")
    if model.confidence is not None:
        found.append(readable(model, kind_of(prediction)))
    return found


def _warnings(model: FittedModel, prediction: AnnData, mapped: list[str]) -> list[str]:
    """Say what a reader must know before believing the page."""
    name, found, var = section_name(prediction), [], prediction.var
    if prediction.uns[Key.uns.prediction].get(Key.prediction.familiarity, {}).get("unlike"):
        found.append(f"{name} is unlike the training sections: what held-out tissue said of genes may not hold here.")
    if Key.var.reliable not in var:
        found.append("The model is of an earlier version, and says nothing of its genes. Train again.")
    else:
        doubtful = [gene for gene in mapped if not var.loc[gene, Key.var.reliable]]
        if doubtful:
            found.append(f"Not reliable for this slide, so that their maps may be wrong: {', '.join(doubtful)}.")
    if model.confidence is not None and not model.confidence.n_patients:
        found.append(UNNAMED)
    missing = prediction.var_names[np.isnan(np.asarray(prediction.X)).all(axis=0)]
    if len(missing):
        found.append(f"Barely measured in training, and not predicted: {', '.join(map(str, missing))}.")
    unlike = float(unfamiliar_spots(prediction).mean())
    if unlike > _MANY_UNLIKE:
        found.append(f"{unlike:.0%} of the spots are unlike training (hatched in the maps).")
    return found


def _genes(model: FittedModel, prediction: AnnData) -> Table | None:
    """Tabulate what is known of the genes, and how many spots are called high and low."""
    if model.confidence is None:
        return None
    whole = gene_table(model.confidence, kind_of(prediction), None)
    called: dict[str, tuple[Cell, Cell]] = {}
    for gene in prediction.var_names[prediction.var[Key.var.reliable].to_numpy(dtype=bool)]:
        counts = call(prediction, gene, _LEVEL).value_counts()
        called[str(gene)] = (Cell(str(counts["high"])), Cell(str(counts["low"])))
    rows = [
        (gene, role, [cells[0], *called.get(gene, (Cell(""), Cell(""))), *cells[1:]])
        for gene, role, cells in whole.rows
        if gene in prediction.var_names
    ]
    return Table([whole.columns[0], "spots called high", "spots called low", *whole.columns[1:]], rows)


def _regions(prediction: AnnData, genes: list[str]) -> Table:
    """Tabulate regions: their spots, and the mean of the drawn genes in them."""
    names = prediction.obs[Key.obs.annotation]
    values = pd.DataFrame(np.asarray(prediction[:, genes].X), names.index, genes)
    unlike, rows = unfamiliar_spots(prediction), []
    for name in sorted(names.dropna().unique()):
        inside = (names == name).to_numpy()
        means = [Cell(number(value, "{:.2f}")) for value in values[inside].mean()]
        rows.append((str(name), "", [Cell(str(inside.sum())), Cell(f"{unlike[inside].mean():.1%}"), *means]))
    return Table(["spots", "unlike training", *(f"mean {gene}" for gene in genes)], rows)


def _signatures(signatures: pd.DataFrame) -> Table:
    """Tabulate signatures: what the score of each is worth."""
    ordered = signatures.sort_values(Key.var.held_out_partial, ascending=False, kind="stable")
    rows = []
    for name, row in ordered.iterrows():
        counts = [Cell(str(row[key])) for key in ("n_genes", "n_predicted", "n_reliable")]
        said = f"not scored: {row['reason']}" if row["reason"] else row["genes"]
        rows.append((str(name), "" if row["reason"] else "reliable", [*counts, _r(row), Cell(said)]))
    columns = ["genes of the set", "predicted", "reliable", "mean held-out r given depth", "scored on"]
    return Table(columns, rows)


def _r(row: pd.Series) -> Cell:
    return Cell(number(row[Key.var.held_out_partial]))


def _protocol(model: FittedModel, prediction: AnnData) -> dict[str, str]:
    """Say what was predicted, and by what."""
    found, data = library(prediction) if libraries(prediction) else Library.of({}), model.config.data
    words = {
        "image": "" if found.source is None else Path(found.source).name,
        "resolution": "" if found.microns_per_pixel is None else f"{found.microns_per_pixel:.4g} um per pixel",
        "spots": f"{prediction.n_obs:,}",
        "genes": f"{prediction.n_vars} of the {len(model.genes)} of the model",
        "values": f"{target_in_words(data.normalize, data.log_base)}, as predicted from the image; not counts",
        "model trained on": ", ".join(map(str, model.train_sections)),
        "model adapted on": ", ".join(map(str, model.origin.get("adapted", {}).get("sections", ()))),
        "image features": model.config.features.described,
        "versions": f"nh2st_graph {__version__}",
    }
    return {name: text for name, text in words.items() if text}
