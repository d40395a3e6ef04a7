"""Find out before training which genes can be read from the images of sections at all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor
from torch_geometric.data import Data

from nh2st_graph._errors import DataError, listed, setting
from nh2st_graph._files import write_text
from nh2st_graph._progress import bars, phase
from nh2st_graph.confidence import FEW_SPOTS, HeldOut, expression_predictability, gene_table, joined
from nh2st_graph.config import Config, DataConfig, with_arguments
from nh2st_graph.metrics import (
    mean_ceiling,
    mean_where,
    neighbour_mean,
    noise_ceiling_interval,
    partial_pearson,
    pearson,
)
from nh2st_graph.models import make_baseline, patients_of
from nh2st_graph.nn import LARGE
from nh2st_graph.read import Sections, documented, sections_by_name
from nh2st_graph.section import (
    Key,
    check_section,
    panel_matrix,
    patient_name,
    say_same_sections,
    split_half_normalizer,
)
from nh2st_graph.train import (
    Fold,
    Preparation,
    PreparedSection,
    choose_panel,
    held_out,
    make_folds,
    pieces,
    threads_for,
    use_threads,
)
from nh2st_graph.train._memory import give_back

__all__ = ["Predictability", "predictability"]

logger = logging.getLogger("nh2st_graph")

#: Regressions that read genes from images. The prediction is their mean.
_READERS = ("ridge_neighbours", "reduced_rank_ridge", "kernel_ridge")

#: Training spots from which on the first, which is solved anew for each penalty, would take many minutes.
_MANY = 1_000

#: Spots that are read of a large section, and those of a piece of it.
_SAMPLE, _PIECE = 1_500, 250

#: Nearest images of a spot, as ExpressionCopilot takes by default.
_NEAREST = 5

#: Columns of the table of genes, by their names in a prediction.
_COLUMNS = {
    Key.var.reliable: "readable",
    Key.var.held_out_r: "pcc",
    Key.var.held_out_partial: "pcc_partial",
    Key.var.held_out_low: "low",
    Key.var.held_out_high: "high",
    Key.var.held_out_chance: "chance",
}

#: Genes that are named in words.
_NAMED = 5


@dataclass(frozen=True)
class Predictability:
    """Which genes can be read from the images of some sections.

    Attributes
    ----------
    genes
        A row for each gene, the best first.

        ``readable``
            the interval of its held-out r given depth lies above chance, by the rule of
            :func:`nh2st_graph.confidence.gene_table`
        ``pcc``, ``pcc_partial``, ``low``, ``high``
            held-out r, and r given depth with its 95 % interval, as means over all sections
        ``chance``
            what 97.5 % of predictions reach that lie in wrong places of the tissue, in r given depth
        ``ceiling``, ``ceiling_low``, ``ceiling_high``, ``share_of_ceiling``
            noise ceiling of r with its 95 % interval, over the sections where the gene varies, and the share of it
            that ``pcc`` reaches
        ``pcc_neighbour_mean``, ``pcc_partial_neighbour_mean``
            what the measured mean of the neighbours says: the gene's structure in space, image or not
        ``pcc_partial_ridge_neighbours``, ...
            held-out r given depth of each regression alone
        ``eps``
            ExpressionCopilot's score (:func:`~nh2st_graph.confidence.expression_predictability`)
        ``detection``, ``mean_counts``
            share of spots with a count, and mean count of a spot
        ``n_sections``, ``n_patients``
            sections where the gene varies, and their patients
    sections
        A row for each section: ``patient``, ``n_spots`` that were read, ``of_spots`` that it has, and the means over
        genes of ``pcc``, ``pcc_partial``, ``ceiling`` and ``pcc_partial_neighbour_mean``.
    held_out
        What was held out in turn: ``patients``, ``sections`` or ``bands``.
    """

    genes: pd.DataFrame
    sections: pd.DataFrame
    held_out: str

    def __str__(self) -> str:
        """Say in words what can be read, what is noise, and what the scores rest on."""
        genes, sections = self.genes, self.sections
        readable, noise = genes["readable"], _is_noise(genes)
        lines = [f"{readable.sum()} of {len(genes)} genes can be read from these images{_best(genes[readable])}"]
        if noise.any():
            lines.append(
                f"{noise.sum()} are noise by their counts alone ({listed(genes.index[noise][::-1], _NAMED)}): no model "
                "can predict them."
            )
        left = int((~readable & ~noise).sum())
        if left:
            lines.append(
                f"{left} can be measured, but these regressions do not find them in the images: a better encoder or "
                "more sections may."
            )
        n_patients = sections["patient"].nunique()
        turns = {"bands": "bands of the tissue", "sections": "whole sections", "patients": "whole patients"}
        lines.append(
            f"Held out in turn: {turns[self.held_out]}, of {_number(len(sections), 'section')} of "
            f"{_number(n_patients, 'patient')}. A gene can be read if r given depth lies above chance."
        )
        unnamed = [str(name) for name, patient in sections["patient"].items() if patient_name(patient) is None]
        if unnamed:
            lines.append(
                f"No patient is named for {listed(unnamed, _NAMED)}: each counts as a patient of its own, and sections "
                "of one patient may count as independent ones."
            )
        if n_patients == 1:
            lines.append("With one patient, this says nothing about slides of another.")
        for name, row in sections[sections["n_spots"] < sections["of_spots"]].iterrows():
            lines.append(f"Of {name}, {row['n_spots']:,} of {row['of_spots']:,} spots were read, in even pieces.")
        return "\n".join(lines)

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``predictability.csv`` and ``predictability.png`` into a folder, which is made if it is not there.

        If any gene can be read, ``readable.txt`` names those that can, one a line: a panel to train on
        (``panel="readable.txt"``).

        Returns
        -------
        The paths of the files.
        """
        from nh2st_graph import pl

        folder = Path(folder)
        table = folder / "predictability.csv"
        figure = pl.save(pl.predictability(self.genes), folder / "predictability.png")
        write_text(table, self.genes.to_csv(float_format="%.6g"))
        readable = self.genes.index[self.genes["readable"]]
        if readable.empty:
            return [table, figure]
        panel = folder / "readable.txt"
        write_text(panel, "".join(f"{gene}\n" for gene in readable))
        return [table, figure, panel]


@documented
def predictability(
    sections: Sections,
    config: Config | None = None,
    *,
    genes: Sequence[str] | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    **settings: Any,
) -> Predictability:
    """Find out which genes can be read from the images of sections, before a model is trained.

    Sections are prepared as for training. Patients, sections or bands of the tissue are held out in turn, as
    ``train.validation`` and ``train.folds`` say, and predicted by the mean of three ridge regressions on image features
    of the spot and its neighbours. Once features are in the cache, this takes about a minute for a thousand spots, and
    longer for many thousands, which two of the regressions read. A trained model may read more; a gene without a noise
    ceiling, none.

    Of a section of 50,000 spots or more, 1,500 are read, in pieces spread evenly over the tissue.

    Parameters
    ----------
    sections
        Sections with raw counts, in a list, a mapping, one AnnData or SpatialData. They do not change.
    config
        The configuration; the defaults if None. The method and its settings are not read.
    genes
        The panel; None chooses it from the sections, as ``data.panel`` says.
    %(library_key)s
    %(table_key)s
    **settings
        Settings that differ from ``config``, as for :func:`fit`.

    Returns
    -------
    Scores of each gene, the best first, and of each section.

    Raises
    ------
    DataError
        If a section breaks the contract or has no genes, or there are too few spots to hold some out.
    ImageError
        If features must be computed, and a section's image is missing, damaged, or not under its spots.
    ConfigError
        If a setting or an encoder is unknown, or the panel cannot be chosen.

    Examples
    --------
    >>> import nh2st_graph as ng
    >>> found = ng.tl.predictability(ng.read.sections("visium", "sections"), panel="hvg:250")
    >>> print(found)
    >>> panel = found.genes.index[found.genes["readable"]]
    """
    config = with_arguments(config or Config(), settings)
    # A fine-tuned encoder starts from the same features.
    config = config.model_copy(update={"features": config.features.model_copy(update={"finetune": False})})
    given = sections_by_name(sections, library_key=library_key, table_key=table_key)
    if not given:
        raise DataError(f"no section given; name at least one in {setting('sections')}")
    with use_threads(config.train.n_threads):
        phase("computing image features and graphs")
        sampled, genes = _sampled(given, config.data, genes)
        prepared = Preparation.learn(config, sampled, {}, genes=genes).train
        say_same_sections({each.name: each.digest for each in prepared})
        graphs = [each.measured for each in prepared]
    n_spots = sum(each.section.n_obs for each in prepared)
    with threads_for(n_spots, config.train.n_threads), bars(shown=config.train.progress) as bar:
        read = _read(make_folds(graphs, config.train.validation, config.train.folds), bar)
        phase("estimating noise ceilings")
        named = bar.track(prepared, description="estimating noise ceilings")
        own = {each.name: _own_scores(each, config.seed) for each in named}
    panel = pd.Index(prepared[0].preparation.genes, name="gene")
    patients = dict(zip((each.name for each in prepared), patients_of(graphs), strict=True))
    return Predictability(
        _by_gene(read, own, patients, panel, config.seed),
        _by_section(read, own, patients, {name: given[name].n_obs for name in patients}),
        _kind(config, patients),
    )


class _HeldOut(NamedTuple):
    """What was held out, as the regressions said together, and r given depth of each over whole sections."""

    parts: list[HeldOut]
    partial: dict[str, NDArray[np.float64]]


class _Own(NamedTuple):
    """What a section says without any model: scores by gene, and what counts are there."""

    scores: pd.DataFrame
    n_spots: int
    detected: NDArray[np.float64]
    counts: NDArray[np.float64]
    varies: NDArray[np.bool_]


def _sampled(
    sections: Mapping[str, AnnData], data: DataConfig, genes: Sequence[str] | None
) -> tuple[dict[str, AnnData], Sequence[str] | None]:
    """Take an even sample of pieces of each large section, and the panel that training would choose on all of it."""
    large = [name for name, section in sections.items() if section.n_obs >= LARGE]
    if not large:
        return dict(sections), genes
    for name in large:
        check_section(sections[name], need=("genes",))
    genes = choose_panel(sections, {}, data) if genes is None else genes
    return {name: _sample(each) if name in large else each for name, each in sections.items()}, genes


def _sample(section: AnnData) -> AnnData:
    position = torch.from_numpy(np.asarray(section.obsm[Key.obsm.spatial], dtype=np.float64))
    parts = pieces(position, -(-section.n_obs // _PIECE))
    taken = np.linspace(0, len(parts) - 1, _SAMPLE // _PIECE).round().astype(np.int64)
    return section[np.sort(np.concatenate([parts[i].numpy() for i in taken]))].copy()


def _read(folds: Sequence[Fold], bar: Progress) -> _HeldOut:
    """Predict what each fold holds out."""
    n_spots = max(sum(int(each.num_nodes or 0) for each in fold.train) for fold in folds)
    by_reader: dict[str, list[HeldOut]] = {name: [] for name in (_READERS if n_spots < _MANY else _READERS[1:])}
    task = bar.add_task("reading genes from images", total=len(folds) * len(by_reader))
    for number, fold in enumerate(folds, start=1):
        phase(f"reading genes from images, part {number} of {len(folds)}")
        for name, parts in by_reader.items():
            # One after the other, since each keeps what it learned from.
            parts += held_out(_fitted(name, fold.train), fold.validation, fold.name)
            give_back()
            bar.advance(task)
    together = [
        replace(same[0], predicted=np.mean([each.predicted for each in same], axis=0))
        for same in zip(*by_reader.values(), strict=True)
    ]
    return _HeldOut(together, {name: _given_depth(joined(parts)) for name, parts in by_reader.items()})


def _fitted(name: str, train: Sequence[Data]) -> Callable[[Data], Tensor]:
    reader = make_baseline(name)
    reader.fit(train)
    return lambda section: torch.from_numpy(np.asarray(reader.predict(section), dtype=np.float64))


def _given_depth(sections: Sequence[HeldOut]) -> NDArray[np.float64]:
    """Compute each gene's mean r given depth."""
    scores = [partial_pearson(each.predicted, each.observed, np.log1p(each.depth)) for each in sections]
    return np.asarray(np.mean(scores, axis=0))


def _own_scores(prepared: PreparedSection, seed: int) -> _Own:
    """Compute the noise ceiling, what neighbours' measured genes say, and the score by nearest images."""
    section, genes, config = prepared.section, prepared.preparation.genes, prepared.preparation.config
    graph, observed = prepared.measured, prepared.observed.to_numpy()
    depth = np.log1p(graph.library[:, 0].numpy())
    # Counts are split in order of names, so that the order of the panel does not matter.
    halves = split_half_normalizer(section, sorted(genes), **config.data.target)
    scores = noise_ceiling_interval(*halves, seed=seed).loc[genes]
    around = neighbour_mean(observed, section.obsp[Key.obsp.connectivities])
    scores["pcc_neighbour_mean"] = pearson(around, observed)
    scores["pcc_partial_neighbour_mean"] = partial_pearson(around, observed, depth)
    n_neighbours = min(_NEAREST, section.n_obs - 1)
    scores["eps"] = expression_predictability(graph.x.numpy(), observed, n_neighbours=n_neighbours)
    counts = panel_matrix(section, genes)
    detected, total = np.asarray((counts > 0).sum(axis=0)).ravel(), np.asarray(counts.sum(axis=0)).ravel()
    return _Own(scores, section.n_obs, detected, total, np.ptp(observed, axis=0) > 0)


def _by_gene(
    read: _HeldOut, own: Mapping[str, _Own], patients: Mapping[str, str], genes: pd.Index, seed: int
) -> pd.DataFrame:
    table = gene_table(read.parts, list(genes), {}, seed=seed)
    scores = table[list(_COLUMNS)].rename(columns=_COLUMNS)
    in_section = np.stack([each.varies for each in own.values()])
    ceiling = mean_ceiling([each.scores for each in own.values()], in_section)
    for name in ceiling:
        scores[str(name)] = ceiling[name].to_numpy()
    # What is in a handful of spots splits into halves that agree there, by chance alone.
    few = np.sum([each.detected for each in own.values()], axis=0) < FEW_SPOTS
    scores.loc[few, ["ceiling", "ceiling_low"]] = 0.0
    measurable = scores["ceiling"].where(scores["ceiling_low"] > 0)
    scores["share_of_ceiling"] = scores["pcc"] / measurable
    for name in ("pcc_neighbour_mean", "pcc_partial_neighbour_mean"):
        scores[name] = mean_where([each.scores[name].to_numpy() for each in own.values()], in_section)
    for name, partial in read.partial.items():
        scores[f"pcc_partial_{name}"] = partial
    scores["eps"] = mean_where([each.scores["eps"].to_numpy() for each in own.values()], in_section)
    n_spots = sum(each.n_spots for each in own.values())
    scores["detection"] = np.sum([each.detected for each in own.values()], axis=0) / n_spots
    scores["mean_counts"] = np.sum([each.counts for each in own.values()], axis=0) / n_spots
    scores["n_sections"] = in_section.sum(axis=0)
    of_patient = pd.DataFrame(in_section, index=[patients[name] for name in own]).groupby(level=0).any()
    scores["n_patients"] = of_patient.to_numpy().sum(axis=0)
    of_readers = ["pcc", "pcc_partial", "low", "high", "chance", *(f"pcc_partial_{name}" for name in read.partial)]
    scores.loc[scores["n_sections"] == 0, of_readers] = np.nan
    # Ties by name, so that the order of the panel does not matter.
    return scores.sort_index().sort_values("pcc_partial", ascending=False, kind="stable", na_position="last")


def _by_section(
    read: _HeldOut, own: Mapping[str, _Own], patients: Mapping[str, str], of_spots: Mapping[str, int]
) -> pd.DataFrame:
    rows = {}
    for section in joined(read.parts):
        each = own[section.section]
        rows[section.section] = {
            "patient": patients[section.section],
            "n_spots": each.n_spots,
            "of_spots": of_spots[section.section],
            "pcc": pearson(section.predicted, section.observed).mean(),
            "pcc_partial": _given_depth([section]).mean(),
            "ceiling": each.scores["ceiling"].mean(),
            "pcc_partial_neighbour_mean": each.scores["pcc_partial_neighbour_mean"].mean(),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("section")


def _kind(config: Config, patients: Mapping[str, str]) -> str:
    """Name what was held out; see :func:`nh2st_graph.train.make_folds`."""
    if config.train.validation == "blocks" or len(patients) == 1:
        return "bands"
    several = len(set(patients.values())) > 1
    return "patients" if config.train.validation == "patient" and several else "sections"


def _is_noise(genes: pd.DataFrame) -> pd.Series:
    """Whether a gene has no noise ceiling that can be measured, and is not read."""
    return ~genes["readable"] & ~(genes["ceiling_low"] > 0)


def _best(readable: pd.DataFrame) -> str:
    if readable.empty:
        return "."
    best = [f"{gene} ({r:.2f})" for gene, r in readable["pcc_partial"].iloc[:_NAMED].items()]
    return f"; best by held-out r given depth: {', '.join(best)}."


def _number(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"
