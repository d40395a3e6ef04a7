"""What commands found, for machines: paths, scores, genes and sentences, as JSON holds them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from nh2st_graph.study import StudyResult
    from nh2st_graph.tl import Predictability, Run

__all__ = ["predictability_facts", "prediction_facts", "run_facts", "study_facts"]

Facts = dict[str, Any]


def run_facts(command: str, run: Run) -> Facts:
    """Tell of a run its scores beside those of baselines and references, its reliable genes, and its files."""
    from nh2st_graph.section import Key

    confidence, evaluation = run.model.confidence, run.evaluation
    reliable: dict[str, list[str]] = {}
    if confidence is not None:
        kinds = {"training_patients": confidence.known, "new_patients": confidence.new}
        for name, evidence in kinds.items():
            if evidence is not None:
                genes = evidence.genes
                reliable[name] = _names(genes[genes[Key.var.reliable].astype(bool)])
    parts = ("protocol", "mean", "sections", "baselines", "references")
    return {
        "command": command,
        "folder": run.folder.absolute(),
        "scores": {} if evaluation is None else {part: evaluation.metrics[part] for part in parts},
        "reliable_genes": reliable,
        "findings": run.findings(),
        "written": [path.absolute() for path in run.outputs()],
    }


def prediction_facts(written: Sequence[Path], findings: Sequence[str]) -> Facts:
    """Tell of predictions what was found, and what stands in their files: size, reliable genes, familiarity."""
    from nh2st_graph.read import open_h5ad
    from nh2st_graph.section import Key

    sections: dict[str, Facts] = {}
    for path in written:
        if path.suffix != ".h5ad":
            continue
        with open_h5ad(path) as adata:
            about = adata.uns[Key.uns.prediction]
            reliable = adata.var.get(Key.var.reliable)
            sections[str(adata.obs[Key.obs.section].iloc[0])] = {
                "file": path.absolute(),
                "n_spots": adata.n_obs,
                "n_genes": adata.n_vars,
                "reliable_genes": None if reliable is None else _names(adata.var[reliable.astype(bool)]),
                "evidence": about.get(Key.prediction.evidence),
                "coverage": about.get(Key.prediction.coverage),
                "unlike_training": bool(about.get(Key.prediction.familiarity, {}).get("unlike", False)),
            }
    return {
        "command": "predict",
        "sections": sections,
        "findings": list(findings),
        "written": [path.absolute() for path in written],
    }


def predictability_facts(found: Predictability, written: Sequence[Path]) -> Facts:
    """Tell which genes can be read, and the scores of all."""
    return {
        "command": "predictability",
        "readable_genes": _names(found.genes[found.genes["readable"]]),
        "held_out": found.held_out,
        "genes": found.genes.to_dict("index"),
        "sections": found.sections.to_dict("index"),
        "findings": str(found).splitlines(),
        "written": [path.absolute() for path in written],
    }


def study_facts(result: StudyResult) -> Facts:
    """Tell of a study its table, what it shows, and what failed."""
    return {
        "command": "benchmark" if result.study.ranked else "ablate",
        "name": result.study.name,
        "table": result.table.to_dict("records"),
        "verdicts": result.verdicts,
        "findings": result.findings,
        "failures": {str(run): reason for run, reason in result.failures.items()},
        "written": [path.absolute() for path in result.written],
    }


def _names(genes: pd.DataFrame) -> list[str]:
    return [str(gene) for gene in genes.index]
