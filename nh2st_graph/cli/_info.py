"""Describe a run, a model, a section or a slide, in one screen."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from nh2st_graph._errors import ConfigError, DataError, ImageError, ModelError, RunError, listed, reason
from nh2st_graph._files import check_format, parse_json
from nh2st_graph._progress import phase
from nh2st_graph._settings import CONFIG_FILE, MODEL_FILE
from nh2st_graph.cli._tables import in_bytes

if TYPE_CHECKING:
    from anndata import AnnData

    from nh2st_graph.section import Library

__all__ = ["run_info"]

#: Files of a model, a run and a study.
_MODEL, _CONFIG, _SCORES, _STUDY = MODEL_FILE, CONFIG_FILE, "metrics.json", "study.yaml"
#: Names of a long list that are shown.
_SHOWN = 8
#: Parts of a configuration that say how a model came about; the rest is of files and devices.
_SETTINGS = ("data", "features", "graph", "model", "train")
_SHOWN_ELSEWHERE = {"panel", "encoder", "encoders", "patch_um", "views"}
_NEUTRAL = {"root", "train", "test", "options", "synthetic", "cache", "device", "precision", "progress", "name"}

Facts = dict[str, Any]


def run_info(path: Path) -> None:
    """Print what a run, model, section or slide is.

    Raises
    ------
    ConfigError, DataError, ImageError, ModelError, RunError
        If the path is none of these, or is damaged.
    """
    title, facts, below = _described(path)
    phase()
    console = Console()
    shown = Table.grid(padding=(0, 2))
    shown.add_column(style="bold", no_wrap=True)
    shown.add_column(overflow="fold")
    for name, value in facts.items():
        if value not in (None, ""):
            shown.add_row(name, value if isinstance(value, Text) else Text(str(value)))
    console.print(Text(title, style="bold"))
    console.print(shown)
    for each in below:
        console.print()
        console.print(each)


def _described(path: Path) -> tuple[str, Facts, list[RenderableType]]:
    from nh2st_graph.tl import find_model, is_archive

    path = find_model(path)
    if is_archive(path) and path.is_file():
        return _model(path)
    if path.is_dir():
        return _folder(path)
    suffix = path.suffix.lower()
    if suffix == ".h5ad":
        return _section(path)
    if suffix in {".yaml", ".yml"}:
        raise ConfigError(f"{path} is a configuration, which 'train' or 'benchmark' reads; give a run, model or file")
    from nh2st_graph.slide import image_exists, split_scene

    if not image_exists(path):
        raise DataError(f"{path} does not exist; give a run or model folder, a section (.h5ad) or a slide")
    return _slide(path, *split_scene(path))


def _folder(path: Path) -> tuple[str, Facts, list[RenderableType]]:
    if (path / _MODEL).is_file():
        return _model(path)
    if (path / _STUDY).is_file():
        raise RunError(f"{path} is the folder of a study; read its tables and report there, or give one of its runs/")
    if path.suffix == ".zarr" or any((path / name).is_file() for name in (".zgroup", "zarr.json")):
        raise DataError(
            f"{path} is a SpatialData store; read its sections by: nh2st-graph prepare spatialdata {path} --out FOLDER"
        )
    if (path / _CONFIG).is_file():
        raise RunError(f"run {path} has no {_MODEL} yet: it is not finished; go on with 'train' and --resume")
    if (format := _format(path)) is not None:
        raise DataError(f"{path} holds sections; read them by: nh2st-graph prepare {format} {path} --out FOLDER")
    raise RunError(
        f"{path} is no folder of a run or model ({_MODEL} is missing); give one, or a section or slide; if it holds "
        f"sections, read them by: nh2st-graph prepare FORMAT {path} --out FOLDER"
    )


def _format(path: Path) -> str | None:
    """Guess the format of a folder of sections by its files; None for formats that look alike."""
    for folder in (path, *sorted(each for each in path.iterdir() if each.is_dir())):
        for outs in (folder, folder / "outs"):
            for inside, format in (("binned_outputs", "visium_hd"), ("spatial", "visium")):
                if (outs / inside).is_dir():
                    return format
    return next(
        (format for ending, format in ((".h5ad", "anndata"), (".zarr", "spatialdata")) if any(path.glob(f"*{ending}"))),
        None,
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        values = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged ({reason(error)}); copy the folder again") from None
    if not isinstance(values, dict):
        raise ModelError(f"{path} is damaged: it holds no keys and values; copy the folder again")
    return values


def _model(path: Path) -> tuple[str, Facts, list[RenderableType]]:
    from nh2st_graph.metrics import METHOD_LABELS
    from nh2st_graph.models import is_foreign
    from nh2st_graph.tl import read_description, reliable_genes

    about = read_description(path)
    try:
        config, genes = about["config"], about["genes"]
        method = config["model"]["name"]
        lattice = about.get("lattice")
        facts: Facts = {
            "method": METHOD_LABELS.get(method, method)
            + (", code of a file or module: to use it, give --trust" if is_foreign(method) else ""),
            "trained on": f"{_listed(about['train_sections'])} ({config['data']['format']})",
            "adapted on": _adapted(about.get("origin") or {}),
            "epochs": about["selected_epochs"] or "-",
            **_chosen(about.get("chosen") or {}),
            "genes": f"{len(genes)} ({config['data']['panel']}): {_listed(genes)}",
            **_reliable(reliable_genes(path, about), len(genes)),
            "targets": f"log counts, normalised by {config['data']['normalize']}"
            + (", smoothed 3x3" if config["data"]["smooth"] == "3x3" else ""),
            "encoder": _encoders(config["features"], about)
            + (", fine-tuned" if config["features"]["finetune"] else ""),
            "spots": None
            if lattice is None
            else f"{lattice['spot_um']:.3g} um wide, {lattice['pitch_um']:.4g} um apart, "
            + {"hex": "hexagonal", "grid": "square"}[lattice["layout"]],
            "settings": "; ".join(_changed(config)) or "all as by default",
            "version": f"nh2st-graph {about['version']}",
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path / _MODEL} is incomplete ({reason(error)} is missing); copy the folder again") from None
    if not (path / _CONFIG).is_file():
        return f"Model {path}", facts, []
    title, below = f"Run {path}", list[RenderableType]()
    if (path / _SCORES).is_file():
        below.append(_scores(_json(path / _SCORES), path))
    else:
        below.append(Text("No scores: the run had no test section, or is not finished.", style="dim"))
    return title, facts, below


def _adapted(origin: Mapping[str, Any]) -> str | None:
    """Say on what a model was adapted after training, and what that gained; None if it was not."""
    about = origin.get("adapted")
    if about is None:
        return None
    before, after = about["pcc_mean"]
    return (
        f"{_listed(list(about['sections']))}, for slides of {about['predicted_as']}: mean r on held-out blocks of them "
        f"{before:.3f} -> {after:.3f}"
    )


def _chosen(chosen: Mapping[str, Any]) -> Facts:
    """Say what training chose: the regressions that NH2ST-Graph starts from, or the settings of a method."""
    shared = chosen.get("correction")
    if shared is None:
        shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in chosen.items()}
        return {"chosen": ", ".join(f"{name} {value}" for name, value in shown.items())}
    facts: Facts = {}
    for who, label in (("known", "for training patients"), ("new", "for other patients")):
        kernel = "Gaussian kernel" if chosen[who]["sharpness"] else "linear"
        added = f"{shared[who]:.0%}" if shared[who] else "nothing"
        facts[label] = (
            f"ridge regression ({kernel}, {chosen[who]['components']} components), and {added} of the network's "
            "correction"
        )
        left_out = chosen[who].get("without")
        if left_out:
            facts[label] += f"; without {_listed(left_out)}, since held-out tissue was predicted better then"
    return facts


def _encoders(features: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """Name the encoders of a model, with their patches and views."""
    n_features = about["n_features"]
    if features.get("embeddings") is not None:
        known = ((about.get("origin") or {}).get("encoders") or [{}])[0]
        patches = f", patches of {known['patch_um']:.4g} um" if known.get("patch_um") else ""
        return f"embeddings of {known.get('name') or 'an unknown encoder'}, {n_features:,} features{patches}"
    blocks, views = features.get("encoders"), features.get("views", 1)
    shown = features["encoder"]
    if blocks is not None:
        shown = "; ".join(f"{each['encoder']} at {each['patch_um'] or features['patch_um']:g} um" for each in blocks)
    shown += f", {n_features:,} features" + ("" if views == 1 else f", mean of {views} views")
    return shown if blocks is not None else f"{shown}, patches of {features['patch_um']:g} um"


def _changed(config: Mapping[str, Any]) -> list[str]:
    """List the settings that differ from the defaults."""
    from nh2st_graph.config import Config

    default = Config().model_dump(mode="json")
    found = []
    for part in _SETTINGS:
        for key, value in config[part].items():
            # Settings of another method have other defaults, which are not known before torch is loaded.
            known = default[part] if part != "model" or config[part]["name"] == default[part]["name"] else {}
            if key not in _NEUTRAL and known.get(key, ...) != value and key not in _SHOWN_ELSEWHERE:
                found.append(f"{part}.{key}={json.dumps(value).strip(chr(34))}")
    return found


def _scores(metrics: Mapping[str, Any], path: Path) -> RenderableType:
    from nh2st_graph.config import RUN_FORMAT
    from nh2st_graph.metrics import LABELS, METHOD_LABELS, RUN_SCORES

    try:
        protocol = metrics["protocol"]
        check_format(str(path / _SCORES), {"version": protocol.get("version")}, RUN_FORMAT, RunError)
        rows = {METHOD_LABELS.get(protocol["method"], protocol["method"]): metrics["mean"]}
        rows |= {LABELS.get(name, name): each["mean"] for name, each in metrics["baselines"].items()}
        rows |= {LABELS.get(name, name): each["mean"] for name, each in metrics["references"].items()}
        title = f"Scores on {_listed(protocol['test'])} ({protocol['split']})"
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path / _SCORES} is incomplete ({reason(error)} is missing); score the run again") from None
    shown = Table(title=Text(title), title_justify="left", header_style="bold")
    shown.add_column("")
    for label in RUN_SCORES.values():
        shown.add_column(label, justify="right")
    for i, (name, row) in enumerate(rows.items()):
        cells = [row.get(key) for key in RUN_SCORES]
        shown.add_row(
            Text(name), *("-" if cell is None else f"{cell:.3f}" for cell in cells), style="bold" if i == 0 else None
        )
    return shown


def _section(path: Path) -> tuple[str, Facts, list[RenderableType]]:
    from nh2st_graph.read import open_h5ad
    from nh2st_graph.section import Key, Library, layers_of, libraries, library_id

    with open_h5ad(path) as adata:
        names, known = _column(adata, Key.obs.section), libraries(adata)
        own = library_id(adata, names[0] if len(names) == 1 else None)
        found = Library.of(known[own]) if own is not None else None
        predicted = adata.uns.get(Key.uns.prediction)
        described = {key: dict(adata.uns[key]) for key in (Key.uns.image,) if isinstance(adata.uns.get(key), Mapping)}
        image = described.get(Key.uns.image)
        facts: Facts = {
            "section": _listed(names) or "-",
            "patient": _listed(_column(adata, Key.obs.patient)) or "-",
            "spots": f"{adata.n_obs:,}{_array(adata)}",
            "genes": f"{adata.n_vars:,}" + (f": {_listed(adata.var_names)}" if adata.n_vars else ""),
            "resolution": None if found is None else _resolution(found),
            "spot": None if found is None else _spot(found),
            "image": None if found is None else _source(found, path),
            "features": None
            if image is None
            else _features(image, adata.obsm[Key.obsm.image].shape[1])
            if Key.obsm.image in adata.obsm
            else None,
            "graph": f"{adata.obsp[Key.obsp.connectivities].nnz:,} edges"
            if Key.obsp.connectivities in adata.obsp
            else None,
            "layers": _listed(list(layers_of(adata))),
            "predicted by": None
            if predicted is None
            else f"a model of {_listed(list(predicted.get('train_sections', [])))}, "
            f"{'from measured genes too, ' if predicted.get(Key.prediction.mode) == 'imputed' else ''}"
            f"{predicted.get('encoder', '?')}, nh2st-graph {predicted.get('version', '?')}",
            "missing": "; ".join(_missing(adata, names, found, len(known), predicted is not None)) or "nothing",
        }
    kind = "Prediction" if predicted is not None else "Section" if len(names) < 2 else f"{len(names)} sections in one"
    return f"{kind} {path}", facts, []


def _features(about: Mapping[str, Any], n_features: int) -> str:
    """Name the encoders of stored features; of several scales with the patch and the number of features of each."""
    from nh2st_graph.section import Key

    sizes, views = about.get(Key.features.patch_um, 0.0), about.get(Key.features.views, 1)
    shown = f"{about.get(Key.features.encoder, '?')} ({n_features:,})"
    if np.ndim(sizes):
        blocks = zip(about[Key.features.encoders], sizes, about[Key.features.n_features], strict=True)
        shown = "; ".join(f"{name} at {size:g} um ({n:,})" for name, size, n in blocks)
    return shown if views == 1 else f"{shown}, mean of {views} views"


def _column(adata: AnnData, key: str) -> list[str]:
    """List the names in a column of ``obs``."""
    from nh2st_graph.section import as_name

    names = map(as_name, adata.obs[key].unique()) if key in adata.obs else ()
    return [name for name in names if name is not None]


def _array(adata: AnnData) -> str:
    from nh2st_graph.section import Key

    rows, columns = (adata.obs.get(key) for key in (Key.obs.array_row, Key.obs.array_col))
    if rows is None or columns is None or not len(rows) or rows.isna().any() or columns.isna().any():
        return ""
    return f", rows {rows.min()} to {rows.max()} and columns {columns.min()} to {columns.max()} of an array"


def _resolution(found: Library) -> str | None:
    return None if found.microns_per_pixel is None else f"{found.microns_per_pixel:.4g} um per pixel"


def _spot(found: Library) -> str | None:
    if found.spot_diameter is None:
        return None
    wide = f"{found.spot_diameter:.4g} pixels wide"
    return (
        wide if found.microns_per_pixel is None else f"{found.spot_diameter * found.microns_per_pixel:.4g} um, {wide}"
    )


def _source(found: Library, path: Path) -> str | None:
    if found.source is None:
        return None
    from nh2st_graph.slide import image_exists

    there = image_exists(found.source) or image_exists(path.parent / found.source)
    return found.source + ("" if there else " (not there)")


def _missing(
    adata: AnnData, names: Sequence[str], found: Library | None, n_libraries: int, predicted: bool
) -> Iterable[str]:
    """Name what a section needs for training or prediction, and does not have."""
    from nh2st_graph.section import Key

    if not names:
        yield f"obs['{Key.obs.section}']"
    if Key.obs.patient not in adata.obs:
        yield f"obs['{Key.obs.patient}']"
    if Key.obsm.spatial not in adata.obsm:
        yield f"positions (obsm['{Key.obsm.spatial}'])"
    if not adata.n_vars:
        yield "genes (it can be predicted, not trained on)"
    if found is None:
        yield f"one entry of uns['{Key.uns.spatial}'] (it has {n_libraries})"
        return
    if found.source is None:
        yield f"the full-resolution image (metadata['{Key.library.source_image}'])"
    if found.microns_per_pixel is None:
        yield f"the resolution (metadata['{Key.library.microns_per_pixel}'])"
    if not predicted and Key.obsm.image not in adata.obsm:
        yield "image features (computed when they are needed)"


def _slide(path: Path, file: Path, scene: str | None) -> tuple[str, Facts, list[RenderableType]]:
    from nh2st_graph.slide import IMAGE_ENDINGS, open_slide

    scenes = _scenes(file)
    try:
        with open_slide(path) as slide:
            sizes, scale, factors = slide.sizes, slide.microns_per_pixel, slide.downsamples
            sides = None if slide.layout is None else slide.layout.resolution
    except ImageError as error:
        if len(scenes) > 1 and scene is None:
            facts: Facts = {"scenes": _listed(scenes), "none is chosen": "give one by its name or number"}
            return f"Slide {path}", facts, [Text(str(error), "dim")]
        if file.suffix.lower() in IMAGE_ENDINGS:  # its own error says what is wrong
            raise
        raise DataError(
            f"{file} is neither a section (.h5ad) nor a slide ({reason(error)}); or give the folder of a run or model"
        ) from None
    width, height = sizes[0]
    facts = {
        "size": f"{width:,} x {height:,} pixels"
        + ("" if scale is None else f", {width * scale / 1e3:.3g} x {height * scale / 1e3:.3g} mm"),
        "resolution": _stated(scale, sides),
        "levels": "; ".join(
            f"{w:,} x {h:,}" + ("" if i == 0 else f" (1/{factors[i]:.4g})") for i, (w, h) in enumerate(sizes)
        ),
        "scenes": _listed(scenes),
        "file": in_bytes(file.stat().st_size),
    }
    return f"Slide {path}", facts, []


def _stated(scale: float | None, sides: tuple[float, float] | None) -> str:
    """Say what a file states about its resolution."""
    if scale is not None:
        return f"{scale:.4g} um per pixel (about {_magnification(scale)}x)"
    if sides is None:
        return "not in the file: give --microns-per-pixel when you predict it"
    x, y = sides
    return (
        f"{x:.4g} um per pixel along x and {y:.4g} along y: pixels are not square, which --microns-per-pixel cannot "
        "cure; resample the image"
    )


def _magnification(scale: float) -> float:
    """Magnification of an objective that gives this resolution."""
    return min((1.25, 2.5, 5, 10, 20, 40, 60, 100), key=lambda x: abs(math.log(10 / scale / x)))


def _scenes(file: Path) -> tuple[str, ...]:
    """Name the images of a TIFF that has several; empty for other files."""
    from nh2st_graph.slide import open_slide

    try:
        with open_slide(f"{file}##0") as slide:
            return () if slide.layout is None else slide.layout.scenes
    except ImageError:
        return ()


def _reliable(found: Mapping[str, Sequence[str]], n_genes: int) -> Facts:
    """Say which genes a model reads, by whose slides; without named patients, there is one kind of slides."""
    whose = {
        "known": "slides of training patients",
        "adapted": "slides of patients adapted to",
        "new": "slides of new patients" if len(found) > 1 else "slides",
    }
    return {
        f"reliable on {whose[name]}": f"{len(genes)} of {n_genes}" + (f": {_listed(genes)}" if genes else "")
        for name, genes in found.items()
    }


def _listed(names: Iterable[Any]) -> str:
    """List names, the first ones of many."""
    return listed(names, _SHOWN)
