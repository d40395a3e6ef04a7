"""Fit a method to sections."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nh2st_graph._errors import DataError, setting
from nh2st_graph.config import Config, with_arguments
from nh2st_graph.models import find_method
from nh2st_graph.read import Sections, documented, sections_by_name
from nh2st_graph.train import FittedModel, Preparation, check_precision, fit_prepared, use_threads

__all__ = ["fit"]


@documented
def fit(
    train_sections: Sections,
    config: Config | None = None,
    *,
    genes: Sequence[str] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    test_sections: Sections = (),
    library_key: str | None = None,
    table_key: str | None = None,
    **settings: Any,
) -> FittedModel:
    """Train a method on sections.

    Parts of the training data are held out in turn (``train.validation``, ``train.folds``). They choose the number of
    epochs and the genes that are predicted best (``hpg50``). Then, with ``train.refit``, a model learns from all
    training sections for that number of epochs. A method that fits itself (:class:`~nh2st_graph.models.Estimator`) is
    fitted once for each held-out part, and then on all sections.

    Parameters
    ----------
    train_sections
        Sections with raw counts, in a list, a mapping, one AnnData or SpatialData. The model learns from these alone.
    config
        The configuration; the defaults if None.
    genes
        The panel; None chooses it from the training sections, as ``data.panel`` says.
    out
        Folder for checkpoints and logs. Without one, none are written: a fit that ends early cannot be resumed.
    resume
        Go on from the checkpoints in ``out``, which must be of the same sections, panel, encoder, settings and release
        of torch. One that cannot be read is set aside, and its stage begins anew.
    test_sections
        Sections to predict later. An error is raised before training if they lack what the method needs, and the panel
        is chosen among genes that they measured too. Nothing is learned from them, and their counts are not read.
    %(library_key)s
        In a list or mapping, and among test sections, an AnnData without this column is one section.
    %(table_key)s
    **settings
        Settings that differ from ``config``, by the last words of its keys: ``panel="hvg:250"``,
        ``encoder="timm:resnet18"``, ``normalize="panel"``, ``max_epochs=30``. A part is given as a mapping
        (``model={"hops": 2}``); ``model="bleep"`` is another method, ``graph="knn"`` another graph.

    Returns
    -------
    The fitted model.

    Raises
    ------
    DataError
        If a section breaks the contract, has no genes, or lacks what the method needs.
    ImageError
        If features must be computed, and a section's image is missing, damaged, or not under its spots.
    ConfigError
        If a setting, a method or an encoder is unknown, or device and precision do not go together.
    ModelError
        If the loss is not finite at some step.
    RunError
        If another process works in ``out``, its checkpoints are of other data, or one cannot be written.

    Examples
    --------
    Train on Visium sections, one folder each, and score the last one, which is held out:

    >>> import nh2st_graph as ng
    >>> sections = ng.read.sections("visium", "sections")
    >>> test = {"D1": sections.pop("D1")}
    >>> model = ng.tl.fit(sections, panel="hvg:250", test_sections=test)
    >>> scores = ng.tl.evaluate(test, model, sections).table()
    """
    config = with_arguments(config or Config(), settings)
    find_method(config.model.name)
    check_precision(config.train)
    sections = sections_by_name(train_sections, library_key=library_key, table_key=table_key)
    if not sections:
        raise DataError(
            f"no training section given; name at least one in {setting('data.train', argument='train_sections')}"
        )
    others = sections_by_name(test_sections, library_key=library_key, table_key=table_key, shared=True)
    with use_threads(config.train.n_threads):
        return fit_prepared(Preparation.learn(config, sections, others, genes=genes), out=out, resume=resume)
