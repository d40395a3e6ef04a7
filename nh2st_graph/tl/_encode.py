"""Compute image features on a Dask cluster: each section is a task that fills the feature cache."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

from nh2st_graph import read
from nh2st_graph._errors import reason
from nh2st_graph._progress import phase
from nh2st_graph.config import Config, DataConfig, GraphConfig
from nh2st_graph.tl._cluster import on_cluster
from nh2st_graph.tl._folder import absolute
from nh2st_graph.tl._named import check_root

__all__ = ["encode_all", "encode_on"]

logger = logging.getLogger("nh2st_graph")


def encode_on(scheduler: str, *configs: Config, strict: bool = True) -> None:
    """Compute the image features of the sections of configurations on a Dask cluster, into the feature cache.

    Features that wait for training stay out: those brought to the stain of training sections, and views in other
    stains. So do synthetic sections, whose images are a run's own.

    Parameters
    ----------
    scheduler
        Address of the scheduler, or its file. The workers must see the same files, and the cache folder, under the same
        paths.
    configs
        Configurations, each with the sections that ``data.train`` and ``data.test`` name. What several of them need is
        computed once.
    strict
        Raise the first error. Otherwise the run that needs the features raises it.

    Raises
    ------
    RunError
        If there is no scheduler, or the workers of a task died.
    ConfigError, DataError, ImageError
        If a section cannot be read or encoded.
    """
    tasks: dict[tuple[Config, bool], str] = {}
    for config in configs:
        if config.data.format != "synthetic" and config.features.stain == "none":
            tasks |= {(one, training): name for one, name, training in _one_by_one(absolute(config))}
    encode_all(scheduler, _encode, list(tasks), list(tasks.values()), strict=strict)


def encode_all(
    scheduler: str,
    encode: Callable[..., None],
    tasks: Sequence[tuple[Any, ...]],
    names: Sequence[str],
    *,
    strict: bool = True,
) -> None:
    """Do tasks on a cluster, and tell of each that has ended; see :func:`encode_on`."""
    phase("computing image features on the cluster")
    done = 0
    with closing(on_cluster(scheduler, encode, tasks)) as news:
        for number, result in news:
            if result is None:
                continue
            done += 1
            try:
                result()
            except Exception as error:
                if strict:
                    raise
                logger.warning(
                    "image features of %s were not computed on the cluster (%s); the run that needs them tries again",
                    names[number],
                    reason(error),
                )
                continue
            logger.info("image features of %s are there (%d of %d)", names[number], done, len(tasks))


def _one_by_one(config: Config) -> list[tuple[Config, str, bool]]:
    """Give a configuration for each section, which holds what its features depend on, its name, and its part."""
    check_root(config)
    data = config.data
    names = [(name, False) for name in data.test]
    train = data.train
    if not train:
        assert data.root is not None
        train = tuple(read.section_names(data.format, data.root, **data.options))
    names += [(name, True) for name in train if name not in data.test]
    keep = {"format": data.format, "root": data.root, "options": data.options, "bad_spots": data.bad_spots}
    plain, no_graph = Config(), GraphConfig(mode="none")
    return [
        (
            plain.model_copy(
                update={"data": DataConfig(**keep, train=(name,)), "features": config.features, "graph": no_graph}
            ),
            name,
            training and data.bad_spots == "drop",
        )
        for name, training in names
    ]


def _encode(config: Config, training: bool) -> None:
    """Fill the cache with the features of the section that a configuration names."""
    from nh2st_graph.train import Preparation, Standardizer

    preparation, data = Preparation.of(config, [], Standardizer()), config.data
    assert data.root is not None
    options = read.check_options(data.format, data.options)
    for section in read.sections(data.format, data.root, data.train, **options).values():
        preparation.prepare(preparation.kept(section), training=training)
