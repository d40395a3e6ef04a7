"""Refuse what a configuration names and is not there, before torch is loaded and sections are read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from nh2st_graph._errors import ConfigError, DataError, ModelError, nearest, said_of, setting
from nh2st_graph._settings import RELIABLE
from nh2st_graph.config import Config, DataConfig
from nh2st_graph.models import check_device

__all__ = [
    "asks_for_reliable",
    "check_cache",
    "check_devices",
    "check_named",
    "check_named_encoder",
    "check_root",
    "checked_genes",
    "explicit",
]

#: Formats of raw files, in which no section has image features.
_WITHOUT_FEATURES = {"synthetic", "her2st", "hest", "skin", "stimage", "stnet", "triplex", "visium", "visium_hd"}


def check_root(config: Config) -> None:
    """Refuse a configuration whose sections cannot be found: without a folder, or with options that nobody takes.

    Raises
    ------
    ConfigError, DataError
        If ``data.root`` is not set or does not exist, or the format's reader does not have an option.
    """
    data = config.data
    if data.format == "synthetic":
        if data.options:
            raise ConfigError(
                f"{setting('data.options')} are for formats that are read from files; with "
                f"{setting('data.format', 'synthetic')}, change {setting('data.synthetic')}"
            )
        return
    if data.root is None:
        raise ConfigError(
            f"{setting('data.root')} is not set; give the folder of the sections (of format {data.format!r}): "
            f"{setting('data.root', 'FOLDER')}"
        )
    if data.options:
        from nh2st_graph import read

        read.check_options(data.format, data.options)
    if not data.root.expanduser().exists():
        raise DataError(f"{data.root} does not exist; check {setting('data.root')}")


def check_named(config: Config, *, panel: bool = True) -> None:
    """Refuse a device, a panel, encoders and sections that are not there, as far as names tell.

    Parameters
    ----------
    config
        The configuration.
    panel
        Whether its panel is used.

    Raises
    ------
    ConfigError, DataError
        Which names the first.
    """
    check_device(config.train.device, config.train.precision)  # first, since the others load readers
    from nh2st_graph.datasets import is_published, read_panel

    data = config.data
    if panel and not (data.panel.startswith("hvg:") or is_published(data.panel)):
        read_panel(Path(data.panel).expanduser())
    check_devices(config)
    _check_sections(data)


def check_devices(config: Config) -> None:
    """Refuse a device, a cache folder, and encoders or files of embeddings that are not there.

    Raises
    ------
    ConfigError, DataError
        Which names the first.
    """
    check_device(config.train.device, config.train.precision)
    check_cache(config.features.cache)
    if config.features.embeddings is not None:
        _check_embeddings(config.features.embeddings, [*config.data.train, *config.data.test])
        return
    from nh2st_graph.im import check_encoders, in_full

    # Sections may bring the features of weights that are gone.
    names = ",".join(dict.fromkeys(name for name, _ in in_full(config.features.blocks)))
    with said_of("features.encoders", "features.encoder", when=config.features.encoders is not None):
        check_encoders(names, files=not _brings_features(config.data, names))
    explicit(config)


def explicit(config: Config) -> Config:
    """Put encoders, and sizes of patches, in the place of ``auto``.

    Raises
    ------
    ConfigError
        If the scale of an encoder is asked for and unknown.
    """
    from nh2st_graph.im import explicit_blocks

    return config.with_blocks(explicit_blocks(config.features.blocks))


def _check_embeddings(place: str, names: Sequence[str]) -> None:
    """Refuse files of embeddings that are not there, of the sections that the configuration names."""
    from nh2st_graph.im import in_obsm, source_of

    for name in names if not in_obsm(place) else ():
        path = source_of(place, name, single=len(names) == 1)
        if not path.exists():
            raise DataError(f"section {name!r}: {path} does not exist; check {setting('features.embeddings')}")


def _check_sections(data: DataConfig) -> None:
    """Refuse names of sections that are not there, if the format lists them."""
    from nh2st_graph import read

    names = [*data.train, *data.test]
    if data.format == "synthetic":
        there = [f"S{number}" for number in range(1, data.synthetic.n_sections + 1)]
        for key, name in [("train", name) for name in data.train] + [("test", name) for name in data.test]:
            if name not in there:
                where = setting(f"data.{key}", argument=f"{key}_sections")
                raise DataError(f"{where}: there is no section {name!r}; {nearest(name, there)}")
    elif data.root is not None and names:
        read.check_names(data.format, data.root.expanduser(), names, **data.options)


def _brings_features(data: DataConfig, encoder: str) -> bool:
    """Whether every section may bring features under this name, so that the encoder may be gone."""
    from nh2st_graph import read

    if data.format in _WITHOUT_FEATURES:
        return False
    if data.format not in {"h5ad", "anndata"} or data.root is None:
        return True  # a store is not opened here: that takes as long as reading its table
    files = read.section_files(data.root.expanduser(), [*data.train, *data.test])
    wanted = _parts(encoder)
    return all(any(_parts(known) == wanted for known in read.stored_encoders(file)) for file in files)


def _parts(encoders: str) -> list[str]:
    """Names of encoders, each once: one of several scales is the same encoder."""
    return list(dict.fromkeys(name.strip() for name in encoders.split(",")))


def check_cache(cache: str | Path | bool | None) -> None:
    """Refuse a file as the folder of cached features.

    Raises
    ------
    ConfigError
        If it is a file.
    """
    if isinstance(cache, str | Path) and Path(cache).expanduser().is_file():
        raise ConfigError(f"{setting('features.cache', str(cache))} is a file; give a folder")


def check_named_encoder(encoder: str | None, *, files: bool) -> None:
    """Refuse an encoder in place of a model's that does not exist.

    Parameters
    ----------
    encoder
        Its name; None to use the model's.
    files
        Also refuse files of weights that do not exist. Sections may bring the features of weights that are gone.

    Raises
    ------
    ConfigError
        If it does not.
    """
    if encoder is not None:
        from nh2st_graph.im import check_encoders

        check_encoders(encoder, files=files)


def asks_for_reliable(genes: object) -> bool:
    """Whether the word for the reliable genes is given, and no list of names."""
    return isinstance(genes, str) and genes == RELIABLE


def checked_genes(genes: str | Sequence[str], known: Sequence[str]) -> list[str]:
    """Give the genes by name.

    Raises
    ------
    ModelError
        If one is not known, or there are no names.
    """
    names = [genes] if isinstance(genes, str) else list(genes) if isinstance(genes, Iterable) else None
    if names is None:
        raise ModelError(f"{setting('genes', genes)} is no list of genes; name them, or leave {setting('genes')} out")
    if not names:
        raise ModelError(f"{setting('genes')} names no gene; name some, or leave it out to keep all")
    there = set(known)
    for gene in names:
        if gene not in there:
            near = nearest(str(gene), [*known, RELIABLE] if len(names) == 1 else known)
            raise ModelError(f"{setting('genes')}: the model does not predict {gene!r}; {near}")
    return names
