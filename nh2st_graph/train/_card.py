"""The card of a shared model: what it predicts, from what, how well, and for which genes not at all."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from nh2st_graph import __version__
from nh2st_graph._errors import listed
from nh2st_graph.confidence import OF_ADAPTED, OF_NEW
from nh2st_graph.im import recipes
from nh2st_graph.metrics import LABELS, METHOD_LABELS, REFERENCES
from nh2st_graph.section import Key

if TYPE_CHECKING:
    from nh2st_graph.train._model import FittedModel

__all__ = ["model_card", "n_patients", "without_paths"]

#: Scores of a row of the table of scores, and of the table of genes, with their headings.
_SCORES = {
    "pcc_mean": "mean r",
    "pcc_partial": "mean r given depth",
    "pcc_heg50": "50 highest expressed",
    "pcc_hpg50": "50 best on held-out",
}
_GENE_SCORES = {"pcc": "r", "pcc_partial": "r given depth", "ceiling": "noise ceiling"}

#: Genes at each end of the table of genes, and genes that are listed by name.
_SHOWN, _NAMED = 10, 1000

#: What the hub files a model under; it has no task of this kind.
_TAGS = ["spatial-transcriptomics", "histology", "gene-expression", "pathology", "graph-neural-network"]

#: A path behind an encoder's name.
_PATH_OF_ENCODER = re.compile(r"(?<=[@:])(?:~|/(?!/)|[A-Za-z]:[\\/])[^,?]*")

_USES = {True: "commercial use is allowed", False: "no commercial use"}


def model_card(
    model: FittedModel,
    name: str,
    *,
    place: str,
    licence: str | None = None,
    metrics: Mapping[str, Any] | None = None,
    per_gene: pd.DataFrame | None = None,
) -> str:
    """Write the card of a model (``README.md``), with the metadata that the Hugging Face hub reads.

    The card gives patients and sections as numbers and digests, and names neither.

    Parameters
    ----------
    model
        The model.
    name
        Its title.
    place
        What :func:`nh2st_graph.load` takes to load it.
    licence
        Identifier of the licence of its weights, as the hub writes it; None if nobody said.
    metrics, per_gene
        Scores on sections that it never saw: ``metrics.json``, and one row a section and gene.
    """
    parts = [
        _metadata(licence),
        f"# {name}",
        f"Predicts the expression of {len(model.genes):,} genes from an H&E image. Method: {_method(model)} of "
        f"nh2st-graph {__version__}. For research; not for diagnosis.",
        f'```python\nimport nh2st_graph as ng\n\nmodel = ng.load("{place}")  # runs no code of the model\n'
        "prediction = ng.tl.predict(section, model)\n```",
        "## Image encoder",
        *_encoders(model),
        "## Genes",
        *_panel(model),
        "## Training data",
        *_data(model),
        *_adapted(model),
        "## Scores",
        *_scores(model, metrics, per_gene),
        "## Licence",
        "Nobody stated the licence of these weights; ask who shared them."
        if licence is None
        else f"These weights: {licence}.",
        "The licence of the encoder holds for it, and may hold for what is learned from its features.",
        f"Digest of the model: `{model.digest}`.",
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(licence: str | None) -> str:
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        license="other" if licence is None else licence.lower(),
        license_name="not-stated" if licence is None else None,
        library_name="nh2st-graph",
        pipeline_tag="other",
        tags=_TAGS,
    )
    return f"---\n{data.to_yaml()}\n---"


def _method(model: FittedModel) -> str:
    method = model.config.model.name
    return METHOD_LABELS.get(method, method)


def _encoders(model: FittedModel) -> Iterator[str]:
    """Say what makes the features, at which scale, and what its licence allows."""
    features, known = model.config.features, recipes()
    if features.embeddings is not None:
        encoders = model.origin.get("encoders") or [{}]
        yield (
            f"Features that another package computed, {model.n_features:,} a spot; encoder: "
            f"{encoders[0].get('name') or 'not stated'}. Whoever predicts brings features of the same encoder."
        )
        return
    rows = []
    for name, size in without_paths(features.blocks):
        plain = name.partition("@")[0].partition("?")[0]
        recipe = known.get(plain)
        if recipe is None:
            facts = [
                "none: this package computes it" if plain.startswith(("handcrafted", "squidpy:", "pixels:")) else ""
            ]
            facts = [*(facts if facts[0] else ["see its authors"]), "", ""]
        else:
            use = _USES[recipe.commercial] + ("; the hub asks for access" if recipe.gated else "")
            facts = [recipe.licence, use, recipe.access]
        rows.append([f"`{plain}`" + (f" ({recipe.title})" if recipe else ""), _in_um(size), *facts])
    yield _table(["encoder", "patch (um)", "licence", "use", "page"], rows)
    if features.finetune:
        yield "Fine-tuned: its weights are part of this model."
    if features.stain != "none":
        yield f"Colours are brought to the stain of the training sections ({features.stain})."


def without_paths(value: Any) -> Any:
    """Leave the last part of each absolute path in text, lists and mappings."""
    if isinstance(value, Mapping):
        return {key: without_paths(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(each) for each in value]
    if not isinstance(value, str):
        return value
    if Path(value).is_absolute() or value.startswith("~"):
        return Path(value).name
    return _PATH_OF_ENCODER.sub(lambda found: Path(found[0]).name, value)


def _in_um(size: object) -> str:
    return f"{size:g}" if isinstance(size, float) else str(size)


def _panel(model: FittedModel) -> Iterator[str]:
    data = model.config.data
    smooth = ", smoothed 3x3" if data.smooth == "3x3" else ""
    yield f"Targets: log counts (base {data.log_base}), normalised by `{data.normalize}`{smooth}."
    if model.confidence is not None:
        reliable = model.confidence.new.genes[Key.var.reliable].astype(bool)
        names = [gene for gene, good in zip(model.genes, reliable, strict=True) if good]
        others = "slides of new patients" if model.confidence.n_patients else "other slides (no patient is named)"
        yield (
            f"On {others}, {_evidence(model, OF_NEW)} calls {len(names):,} of {len(model.genes):,} genes "
            f"reliable{': ' + listed(names, _NAMED) if names else ''}. Do not trust other genes."
        )
        for kind, evidence in model.confidence.kinds.items():
            if kind == OF_NEW:
                continue
            own = evidence.genes[Key.var.reliable].astype(bool)
            mine = [gene for gene, good in zip(model.genes, own, strict=True) if good]
            yield (
                f"On slides of the {kind}, {_evidence(model, kind)} calls {len(mine):,} reliable"
                f"{': ' + listed(mine, _NAMED) if mine else ''}."
            )
    shown = f"{', '.join(model.genes[:_NAMED])}" + (" and more" if len(model.genes) > _NAMED else "")
    yield f"<details><summary>All {len(model.genes):,} genes</summary>\n\n{shown}\n\n</details>"


def _evidence(model: FittedModel, who: str) -> str:
    """Name the tissue that says which genes are reliable."""
    about = model.origin.get("adapted")
    since = about and (who == OF_ADAPTED or who in about["predicted_as"])
    return "held-out tissue of its adaptation" if since else "held-out training tissue"


def _data(model: FittedModel) -> Iterator[str]:
    """Give sections and patients as numbers and digests."""
    sections: Mapping[str, Mapping[str, str]] = model.origin.get("train", {})
    n = len(model.train_sections)
    patients = n_patients(model.origin)
    if patients is None and model.confidence is not None and model.confidence.n_patients:
        patients = model.confidence.n_patients
    of = "an unknown number of patients" if patients is None else _count(patients, "patient")
    epochs = _count(model.selected_epochs, "epoch")
    yield f"{_count(n, 'section')} of {of}, read as `{model.config.data.format}`; {epochs}."
    if model.lattice is not None:
        lattice = model.lattice
        yield f"Spots: {lattice.spot_um:.3g} um wide, {lattice.pitch_um:.4g} um apart, layout {lattice.layout}."
    if sections:
        parts = ("counts", "positions", "image", "resolution")
        rows = [[str(i), *(each.get(part, "-") for part in parts)] for i, each in enumerate(sections.values(), 1)]
        yield _table(["section", *(f"digest of {part}" for part in parts[:3]), "um per px"], rows)


def _adapted(model: FittedModel) -> Iterator[str]:
    """Say on what the model was adapted after training, and what that gained."""
    about = model.origin.get("adapted")
    if about is None:
        return
    (before, after), (gain, low, high), errors = about["pcc_mean"], about["pcc_gain"], about["mse"]
    yield "## Adapted after training"
    yield (
        f"Its last layer was fitted again on {_count(about['n_spots'], 'spot')} of "
        f"{_count(len(about['sections']), 'more section')}, for slides of {about['predicted_as']}. On held-out blocks "
        f"of that tissue, mean r went from {before:.3f} to {after:.3f} ({gain:+.3f}, {low:.3f} to {high:.3f}), and "
        f"the squared error from {errors[0]:.3f} to {errors[1]:.3f}. Other tissue may gain nothing."
    )
    rows = [[str(i), each["counts"], each["positions"]] for i, each in enumerate(about["sections"].values(), 1)]
    yield _table(["section", "digest of counts", "digest of positions"], rows)


def n_patients(origin: Mapping[str, Any]) -> int | None:
    """Count the training patients that a model's origin knows; None if it does not know of all sections."""
    if "n_patients" in origin:
        return int(origin["n_patients"])
    named = [each.get("patient") for each in origin.get("train", {}).values()]
    known = [each for each in named if each and not each.startswith("unknown (")]
    return len(set(known)) if known and len(known) == len(named) else None


def _scores(model: FittedModel, metrics: Mapping[str, Any] | None, per_gene: pd.DataFrame | None) -> Iterator[str]:
    if metrics is None:
        yield (
            "None. This model was not scored on sections that it never saw, or its scores were not shared. Do not "
            "trust a gene before you have scored it: `ng.tl.evaluate`."
        )
        return
    protocol = metrics["protocol"]
    split = protocol["split"]
    warning = {
        "within patient": " A patient is in training and test: on new patients, expect lower scores.",
        "patients unknown": " Whether a patient is in training and test is not known.",
    }.get(split, "")
    yield (
        f"On {_count(len(protocol['test']), 'section')} that training never saw, {split}.{warning} r is the "
        "correlation of a gene over the spots of a section; depth is the number of counts in a spot, which explains "
        "much of r."
    )
    baselines = metrics.get("baselines") or metrics.get("floors") or {}
    rows = {f"**{_method(model)}**": metrics["mean"]}
    rows |= {LABELS.get(name, name): each["mean"] for name, each in baselines.items()}
    rows |= {LABELS[name]: each["mean"] for name, each in metrics["references"].items() if name in REFERENCES}
    yield _table(
        ["", *_SCORES.values()], [[name, *(_number(row.get(key)) for key in _SCORES)] for name, row in rows.items()]
    )
    best = max(baselines, key=lambda name: _or_least(baselines[name]["mean"].get("pcc_partial")), default=None)
    if best is not None and _or_least(metrics["mean"].get("pcc_partial")) <= _or_least(
        baselines[best]["mean"].get("pcc_partial")
    ):
        yield f"**It does not beat the best baseline, {LABELS.get(best, best)}, given depth.**"
    without = metrics.get("genes_without_ceiling") or {}
    if any(without.values()):
        genes = sorted({gene for each in without.values() for gene in each})
        yield (
            f"{_count(len(genes), 'gene')} without a measurable ceiling on some test section, so that their scores say "
            f"nothing there: {listed(genes, 50)}."
        )
    if per_gene is not None:
        yield from _genes(per_gene, model)


def _genes(per_gene: pd.DataFrame, model: FittedModel) -> Iterator[str]:
    """Show genes at both ends of what held-out training tissue says, with their means over the test sections.

    A model of an earlier version has no such evidence, and its genes are ordered by the test sections.
    """
    columns = [name for name in _GENE_SCORES if name in per_gene]
    means = per_gene.groupby("gene")[columns].mean()
    order = "pcc_partial" if "pcc_partial" in columns else "pcc"
    failed = int((means[order].fillna(0) <= 0).sum())
    shown, by = {name: _GENE_SCORES[name] for name in columns}, order
    if model.confidence is not None:
        by = Key.var.held_out_partial
        means[by] = model.confidence.new.genes[by].reindex(means.index)
        shown = {by: "r given depth, held-out training"} | shown
    means = means.sort_values([by, "gene"], ascending=[False, True], kind="stable", na_position="last")
    yield (
        f"**{failed:,} of {_count(len(means), 'gene')} are not predicted at all** ({_GENE_SCORES[order]} of 0 or "
        "below, or no score)." + (" Do not use them." if failed else "")
    )
    n = min(_SHOWN, len(means) // 2) if len(means) < 2 * _SHOWN else _SHOWN
    parts = {"best": means.head(n), "worst": means.tail(n or len(means))}
    rows = [
        [part, str(gene), *(_number(row[name]) for name in shown)]
        for part, table in parts.items()
        for gene, row in table.iterrows()
    ]
    yield _table(["", "gene", *shown.values()], rows)


def _or_least(value: Any) -> float:
    return float("-inf") if value is None else float(value)


def _number(value: Any) -> str:
    return "-" if value is None or value != value else f"{value:.3f}"


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" + ("" if n == 1 else "s")


def _table(header: list[str], rows: list[list[str]]) -> str:
    """Write a table in Markdown; a cell has neither bars nor line breaks."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in line) + " |" for line in lines
    )
