"""Refuse what cannot be done: known from arguments alone, before torch is loaded and sections are read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nh2st_graph._errors import ConfigError, DataError, ImageError, ModelError, RunError, setting
from nh2st_graph._files import check_place, is_left_over
from nh2st_graph._settings import CONFIG_FILE, RELIABLE
from nh2st_graph.config import Config, TrainConfig, changes, load_config, read_yaml
from nh2st_graph.models import check_method
from nh2st_graph.tl._named import (
    asks_for_reliable,
    check_cache,
    check_named,
    check_named_encoder,
    check_root,
    checked_genes,
    explicit,
)
from nh2st_graph.tl._outputs import Outputs, chosen_exports, refuse_existing
from nh2st_graph.train import find_model, is_archive, read_description, reliable_genes

__all__ = [
    "absolute",
    "check_begun",
    "check_data_there",
    "check_evaluation",
    "check_folder",
    "check_one_file",
    "check_prediction",
    "check_preparation",
    "check_run",
    "find_model",
    "is_archive",
    "is_first",
    "read_description",
    "refuse_existing_sections",
    "reliable_genes",
    "stored_config",
]


#: A path in an encoder's name: a file of weights after ``@`` (for hub models, a revision stands there), or a folder.
#: Options follow it.
_ENCODER_PATH = re.compile(r"((?:timm(?:-map)?:)?[^:@?]+@|timm(?:-map)?:local-dir:)(?!random(?:\?|$))([^?]+)(\?.*)?")


def is_first(config: TrainConfig | None = None) -> bool:
    """Whether nothing says that this process was started beside the first of a training run, which writes it.

    Parameters
    ----------
    config
        Settings of the run; if it is of one process, that is the first.
    """
    if config is not None and config.devices == config.nodes == 1:
        return True
    started = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in started)


def check_folder(out: Path, *, resume: bool) -> None:
    """Refuse a run folder that exists; with ``resume``, one that holds no run.

    A folder is new if it holds nothing, or what is left of a process that was killed before it wrote a file.

    Raises
    ------
    RunError
        If the folder cannot be used.
    """
    if is_left_over(out):
        return check_place(out / CONFIG_FILE)
    if out.exists() and not resume:
        raise RunError(
            f"run folder {out} exists already; give another as {setting('out')}, or go on with this run by "
            f"{setting('resume', True)}"
        )
    check_place(out)
    if resume and not (out / CONFIG_FILE).is_file():
        raise RunError(
            f"run folder {out} holds no run to resume ({CONFIG_FILE} is missing); leave out {setting('resume', True)}"
        )
    return None


def check_run(config: Config, out: str | Path, *, resume: bool = False) -> None:
    """Refuse a run of files that cannot begin; see :func:`train_run`.

    Raises
    ------
    RunError, ConfigError, DataError
        If the folder cannot be used, was begun with another configuration, or files are missing.
    """
    check_begun(config, Path(out), resume=resume)
    check_root(config)
    check_named(config)


def check_preparation(config: Config, out: str | Path, *, resume: bool = False) -> None:
    """Refuse to prepare sections that are not there, or into files that exist; see :func:`prepare_sections`.

    Raises
    ------
    RunError, ConfigError, DataError
        If an output exists without ``resume``, or an input is missing.
    """
    out = Path(out)
    check_place(out)
    if not resume:
        refuse_existing_sections(out / f"{name}.h5ad" for name in (*config.data.train, *config.data.test))
    check_root(config)
    check_named(config, panel=False)


def refuse_existing_sections(paths: Iterable[Path]) -> None:
    """Refuse to write sections whose files exist.

    Raises
    ------
    RunError
        If one exists.
    """
    for path in paths:
        if path.exists():
            raise RunError(f"{path} exists already; give another folder as {setting('out')}, or remove it")


def check_begun(config: Config, out: Path, *, resume: bool) -> None:
    """Refuse a run folder as :func:`check_folder` does; with ``resume``, also one of another configuration.

    Raises
    ------
    RunError
        If the folder cannot be used, or was begun with another configuration.
    """
    check_folder(out, resume=resume)
    if not resume or is_left_over(out):
        return
    now = absolute(config).model_dump(mode="json")
    name = (read_yaml(out / CONFIG_FILE).get("model") or {}).get("name", config.model.name)
    if name == config.model.name:
        stored = absolute(stored_config(out, name)).model_dump(mode="json")
    else:  # another method may be code of a file, and is not imported to be compared
        stored = {**now, "model": {**now["model"], "name": name}}
    changed = changes(stored, now)
    if changed:
        named = (setting(key) + f": {values}" for key, _, values in (each.partition(": ") for each in changed[:3]))
        raise RunError(
            f"run folder {out} was begun with another configuration ({', '.join(named)}); resume with the same"
        )


def absolute(config: Config) -> Config:
    """Make the paths of a configuration absolute, and resolve ``auto``, as a run folder keeps them.

    Raises
    ------
    ConfigError
        If the scale of an encoder is asked for and unknown.
    """
    from nh2st_graph.datasets import is_published
    from nh2st_graph.im import in_obsm

    config = explicit(config)
    data = config.data
    in_data: dict[str, object] = {}
    if data.root is not None:
        in_data["root"] = data.root.expanduser().resolve()
    if not (data.panel.startswith("hvg:") or is_published(data.panel)):
        in_data["panel"] = str(Path(data.panel).expanduser().resolve())
    encoders = config.features.encoders
    names = [_with_absolute_path(name) for name, _ in config.features.blocks]
    features: dict[str, object] = {"encoder": ",".join(names)} if names else {}
    if encoders is not None:
        features["encoders"] = tuple(
            each.model_copy(update={"encoder": name}) for each, name in zip(encoders, names, strict=True)
        )
    place = config.features.embeddings
    if place is not None and not in_obsm(place):
        features["embeddings"] = str(Path(place).expanduser().resolve())
    if config.features.cache is not None:
        features["cache"] = config.features.cache.expanduser().resolve()
    return config.model_copy(
        update={"data": data.model_copy(update=in_data), "features": config.features.model_copy(update=features)}
    )


def _with_absolute_path(encoder: str) -> str:
    """Make the path in the name of an encoder absolute, if there is one."""
    found = _ENCODER_PATH.fullmatch(encoder)
    if found is None:
        return encoder
    return f"{found[1]}{Path(found[2].strip()).expanduser().resolve()}{found[3] or ''}"


def check_evaluation(
    folder: str | Path, *, trust: bool = False, encoder: str | None = None, cache: str | Path | bool | None = None
) -> None:
    """Refuse to score a folder that is no run, or whose run has nothing to score on; see :func:`evaluate_run`.

    Raises
    ------
    ConfigError, ModelError, RunError
        If the folder holds no model, the model needs your word, or it is not a run; or if the encoder does not exist.
    """
    folder = Path(folder)
    _check_model(folder, trust)
    if not (folder / CONFIG_FILE).is_file():
        raise _no_run(folder)
    data = read_yaml(folder / CONFIG_FILE).get("data")
    if isinstance(data, Mapping) and not data.get("test"):
        raise without_test(folder)
    if isinstance(data, Mapping) and isinstance(data.get("root"), str):
        check_data_there(folder, Path(data["root"]))
    check_named_encoder(encoder, files=False)
    check_cache(cache)


def check_data_there(folder: Path, root: Path) -> None:
    """Refuse a run whose sections have moved, and say where their folder is named."""
    if not root.expanduser().exists():
        raise DataError(
            f"run {folder}: {root} does not exist; if the sections moved, write their folder as root under data in "
            f"{folder / CONFIG_FILE}"
        )


def without_test(folder: Path) -> RunError:
    """Say that a run has no section to score on."""
    return RunError(
        f"run {folder}: {setting('data.test', argument='test_sections')} is empty, so there is nothing to score on; "
        "name a section there, and train again"
    )


def check_prediction(
    folder: str | Path,
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    microns_per_pixel: float | None = None,
    library_key: str | None = None,
    table: str | None = None,
    patient: str | None = None,
    pitch_um: float | None = None,
    spot_um: float | None = None,
    min_tissue: float = 0.5,
    spatialdata: bool = False,
    genes: str | Sequence[str] | None = None,
    resume: bool = False,
    trust: bool = False,
    encoder: str | None = None,
    cache: str | Path | bool | None = None,
    embeddings: str | Path | None = None,
    export: str | Sequence[str] = (),
    report: bool = False,
    gene_sets: str | Path | Mapping[str, Sequence[str]] | None = None,
    roi: str | Path | None = None,
    exclude: str | Path | None = None,
) -> None:
    """Refuse a prediction of files that cannot be made.

    Parameters
    ----------
    folder, paths, out, microns_per_pixel, library_key, table, patient, pitch_um, spot_um, min_tissue
        As for :func:`predict_run`.
    spatialdata, genes, resume
        As for :func:`predict_run`.
    trust, encoder, cache, embeddings, export, report, gene_sets, roi, exclude
        As for :func:`predict_run`.

    Raises
    ------
    ModelError, RunError, ConfigError, DataError, ImageError
        If there is no model, or it needs your word, or does not predict a gene; if an input is missing, an output
        exists, or a slide's file contradicts the resolution.
    """
    from nh2st_graph.slide import check_scale, check_share, image_exists

    model = find_model(folder)
    about = _check_model(model, trust)
    if asks_for_reliable(genes):
        found = reliable_genes(model, about)
        if found and not any(found.values()):
            raise ModelError(
                f"{setting('genes', RELIABLE)}: model {folder} reads no gene reliably, on no slide; leave "
                f"{setting('genes')} out"
            )
    elif genes is not None and isinstance(about.get("genes"), list):
        checked_genes(genes, about["genes"])
    files, out = [Path(path) for path in paths], Path(out)
    check_place(out)
    _check_lengths(pitch_um=pitch_um, spot_um=spot_um)
    check_share(min_tissue)
    check_named_encoder(encoder, files=any(not file.is_dir() and file.suffix != ".h5ad" for file in files))
    check_cache(cache)
    _check_kinds(files, library_key=library_key, table=table, patient=patient)
    outputs = Outputs(out, spatialdata, chosen_exports(export), report)
    if gene_sets is not None:
        from nh2st_graph.tl._signatures import check_gene_sets

        check_gene_sets(gene_sets, about["genes"] if isinstance(about.get("genes"), list) else [])
    if roi is not None or exclude is not None:
        from nh2st_graph.tl._regions import check_regions

        check_regions(len(files), roi=roi, exclude=exclude)
    n_sections = 0
    check_one_file(out, len(files))  # the sections in a file are counted when it is read
    if microns_per_pixel is not None:
        check_scale(str(folder), None, microns_per_pixel)
    for file in files:
        if not (file.exists() or image_exists(file)):
            error = DataError if file.suffix in {".h5ad", ".zarr"} else ImageError
            raise error(f"{file} does not exist; give a section (.h5ad, .zarr) or a slide")
        if file.is_dir():
            _check_store(file)
            n_sections += 1  # at least; its regions are counted when it is read
            continue
        if file.suffix == ".h5ad" and library_key is not None:
            from nh2st_graph.read import section_names

            names = section_names("h5ad", file, library_key=library_key)
        else:
            check = _check_section if file.suffix == ".h5ad" else _check_slide
            names = [check(file, microns_per_pixel)]
            if check is _check_slide and not (trust or encoder or embeddings):
                _check_places(about)
        n_sections += len(names)
        for name in names if not resume else ():
            refuse_existing(outputs.of(name).values())
    check_one_file(out, n_sections)


def _check_lengths(**lengths: float | None) -> None:
    """Refuse lengths of a slide's lattice that are not above 0."""
    given: dict[str, Any] = {name: value for name, value in lengths.items() if value is not None}
    if given:
        from nh2st_graph.im import Lattice

        Lattice(**given)


def _check_kinds(files: Sequence[Path], **of: str | None) -> None:
    """Refuse an argument that no input takes: it would change nothing."""
    takes = {
        "library_key": ("h5ad files that hold several sections", any(file.suffix == ".h5ad" for file in files)),
        "table": ("SpatialData stores", any(file.is_dir() for file in files)),
        "patient": ("slides", any(not file.is_dir() and file.suffix != ".h5ad" for file in files)),
    }
    for name, value in of.items():
        what, some = takes[name]
        if value is not None and not some:
            raise ConfigError(f"{setting(name, value)} is for {what}, and none is given; leave it out")


def _check_places(about: Mapping[str, Any]) -> None:
    """Refuse a model whose encoder leads to a file or hub; features are computed on a slide in any case."""
    config = about.get("config")
    features = config.get("features") if isinstance(config, Mapping) else None
    if isinstance(features, Mapping):
        from pydantic import ValidationError

        from nh2st_graph.config import FeaturesConfig
        from nh2st_graph.im import refuse_places

        if features.get("embeddings") is not None:
            raise ModelError(
                "the model was trained on embeddings, which a slide does not bring; give those of the slide as "
                f"{setting('features.embeddings', 'FOLDER')}"
            )
        with suppress(ValidationError):  # said when the model is loaded
            refuse_places(FeaturesConfig.model_validate(features).names)


def _check_store(folder: Path) -> None:
    """Refuse a folder that is no SpatialData store, and holds none."""
    from nh2st_graph.read import is_store

    if not any(map(is_store, (folder, *folder.iterdir()))):
        files = sorted(folder.glob("*.h5ad"))
        hint = f"; give its files, such as {files[0]}" if files else ""
        raise DataError(
            f"{folder} holds no sections: a folder is taken for a SpatialData store, or for several (.zarr)"
            f"{hint or '; give a store, a section (.h5ad) or a slide'}"
        )


def _check_section(file: Path, microns_per_pixel: float | None) -> str:
    """Check the resolution of a section, and give its name."""
    from nh2st_graph import read
    from nh2st_graph.section import library, library_id, section_name
    from nh2st_graph.slide import check_scale

    with read.open_h5ad(file) as section:
        if not section.n_obs:
            return file.stem  # refused with its other faults when it is read
        if microns_per_pixel is not None and library_id(section) is not None:
            check_scale(str(file), library(section).microns_per_pixel, microns_per_pixel)
        return section_name(section)


def _check_slide(file: Path, microns_per_pixel: float | None) -> str:
    """Check the resolution of a slide, and give its name."""
    from nh2st_graph.slide import check_scale, check_size, chosen_scale, image_name, open_slide, scale_advice

    with open_slide(file) as slide:
        where, scale = f"slide {file}", microns_per_pixel
        if scale is None:
            scale = chosen_scale(where, slide.microns_per_pixel, None, scale_advice(slide))
        else:
            check_scale(where, slide.microns_per_pixel, scale)
        check_size(where, slide.sizes[0], scale)
    return image_name(file)


def check_one_file(out: Path, n_sections: int) -> None:
    """Refuse one file as the output of several sections.

    Raises
    ------
    RunError
        If ``out`` is one file and there is not one section, or a file of another kind.
    """
    if out.is_file() and out.suffix != ".h5ad":
        raise RunError(f"{setting('out', str(out))} is a file; give a folder, or a file that ends in .h5ad")
    if out.is_dir() and out.suffix == ".h5ad":
        raise RunError(f"{setting('out', str(out))} is a folder; give a file, or a folder whose name does not end so")
    if out.suffix == ".h5ad" and n_sections != 1:
        raise RunError(f"{setting('out', str(out))} is one file for {n_sections} sections; give a folder")


def stored_config(folder: Path, trust: bool | str = False) -> Config:
    """Read the configuration of a run; for ``trust`` see :func:`nh2st_graph.train.check_method`.

    Raises
    ------
    RunError
        If the folder is not a run.
    ModelError
        If its method needs your word.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise _no_run(folder)
    check_method(read_yaml(folder / CONFIG_FILE), f"run {folder}", trust)
    return load_config(folder / CONFIG_FILE)


def _no_run(folder: Path) -> RunError:
    return RunError(f"{folder} is not a run folder ({CONFIG_FILE} is missing); give the folder of a run")


def _check_model(folder: Path, trust: bool) -> Mapping[str, Any]:
    """Refuse a folder without a model, or one whose method needs the caller's word; give its description.

    What is damaged in it is said when it is loaded.
    """
    about = read_description(folder)
    check_method(about.get("config"), f"model {folder}", trust)
    return about
