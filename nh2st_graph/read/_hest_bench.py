"""Read a task of HEST-Benchmark: its sections and its splits.

Jaume et al. 2024, "HEST-1k: A dataset for spatial transcriptomics and histology image analysis", NeurIPS; the folders
are those of the download MahmoodLab/hest-bench, one a task (``IDC``, ``PRAD``, ...).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from anndata import AnnData

from nh2st_graph._errors import DataError, listed, reason, setting
from nh2st_graph.read._common import check_exists, wanted_names
from nh2st_graph.read._hest import metadata, read_sample, slide_files
from nh2st_graph.read._hest_known import KNOWN_SAMPLES
from nh2st_graph.read._patches import patch_names
from nh2st_graph.read._patients import PATIENTS, read_each
from nh2st_graph.read._registry import register_format

__all__ = ["HEST_GENES", "PublishedSplit", "hest_bench", "patch_order", "published_splits"]

#: The file of a task's 50 target genes.
HEST_GENES = "var_50genes.json"

_SPLIT = re.compile(r"(train|test)_(\d+)\.csv")
_SAMPLE = "sample_id"


class PublishedSplit(NamedTuple):
    """One fold as the benchmark publishes it: ids of samples, in the order of its tables."""

    train: tuple[str, ...]
    test: tuple[str, ...]


def _names(root: Path) -> set[str]:
    if not (root / "adata").is_dir():
        tasks = sorted(path.parent.name for path in root.glob("*/adata") if path.is_dir())
        hint = f"give one task, such as {root / tasks[0]}" if tasks else "give a task of HEST-Benchmark (adata, splits)"
        raise DataError(f"{root} has no folder 'adata'; {hint}")
    return {path.stem for path in (root / "adata").glob("*.h5ad") if not path.name.startswith(".")}


@register_format("hest_bench", _names)
def hest_bench(
    root: str | Path, names: str | Sequence[str] | None = None, *, with_image: bool = True
) -> dict[str, AnnData]:
    """Read samples of one task of HEST-Benchmark.

    Parameters
    ----------
    root
        The folder of the task: ``adata/{id}.h5ad`` (raw counts), ``patches/{id}.h5`` (``img``, ``coords``,
        ``barcode``), ``splits/train_{i}.csv`` and ``test_{i}.csv`` (``sample_id``), ``var_50genes.json``. Slides
        (``wsis/{id}.tif``) and ``metadata/{id}.json`` of HEST-1k are used where they are there too. Without patches
        and slides, sections have no image, which is enough for features of another package.
    names
        Ids of the samples to read, in this order; None reads all of ``adata``.
    with_image
        Read images where they are there. Without a slide, positions are then in pixels of the assembled patches;
        without an image they are in pixels of the slide, as in files of embeddings.

    Returns
    -------
    Sections by id, as from :func:`hest`, with the spots that have a patch. The patient is that of the table ``ids.csv``
    (``sample_id,patient``), or else of ``KNOWN_SAMPLES``, which corrects published errors, or else ``test group i``
    for all samples that the benchmark tests together in fold i.

    Raises
    ------
    DataError
        If a part of the folder is missing or malformed, a sample is unknown, or patches and spots share no barcode.
    """
    root = Path(root)
    check_exists(root)
    known = _names(root)
    groups = {name: f"test group {i}" for i, split in enumerate(published_splits(root)) for name in split.test}

    def read(name: str, patient: str | None) -> AnnData:
        if not patient:
            corrected = KNOWN_SAMPLES.get(name)
            patient = (corrected.patient if corrected else None) or groups.get(name)
        about = metadata(root, name) if (root / "metadata" / f"{name}.json").is_file() else None
        patches = (root / "patches" / f"{name}.h5").is_file()
        image = with_image and (patches or bool(slide_files(root, name)))
        return read_sample(root, "adata", name, patient, about, with_patch_only=patches, with_image=image)

    return read_each(wanted_names(names, known, root), known, root, PATIENTS, read)


def published_splits(root: str | Path) -> list[PublishedSplit]:
    """Read the folds of a task of HEST-Benchmark.

    Parameters
    ----------
    root
        The folder of the task.

    Raises
    ------
    DataError
        If ``splits`` is missing or empty, a table is missing or malformed, or a sample has no file in ``adata``.
    """
    root = Path(root)
    check_exists(root)
    folder, known = root / "splits", _names(root)
    if not folder.is_dir():
        raise DataError(
            f"{root} has no folder 'splits'; download it (train_0.csv, test_0.csv, ...), or give folds of your own"
        )
    there = {match[0] for path in folder.iterdir() if (match := _SPLIT.fullmatch(path.name))}
    numbers = sorted({int(name.partition("_")[2].removesuffix(".csv")) for name in there})
    if not numbers:
        raise DataError(f"{folder} has no train_0.csv and test_0.csv; download the splits of this task")
    if numbers != list(range(len(numbers))):
        raise DataError(f"{folder} has folds {listed(map(str, numbers))}, which do not count from 0; download it again")
    return [
        PublishedSplit(*(_samples(folder / f"{side}_{i}.csv", known) for side in ("train", "test"))) for i in numbers
    ]


def patch_order(root: Path, name: str) -> pd.Index | None:
    """Read the barcodes of a sample in the benchmark's order, that of its patches; None without patches."""
    path = root / "patches" / f"{name}.h5"
    return patch_names(path, f"section {name!r}") if path.is_file() else None


def _samples(path: Path, known: set[str]) -> tuple[str, ...]:
    """Read the ids of one table."""
    if not path.is_file():
        raise DataError(f"{path} is missing, and each fold needs train_i.csv and test_i.csv; download it")
    try:
        table = pd.read_csv(path, dtype=str)
    except (OSError, ValueError) as error:  # pandas' errors are ValueErrors
        raise DataError(f"{path} cannot be read ({reason(error)}); download it again") from None
    if _SAMPLE not in table:
        raise DataError(f"{path} has no column {_SAMPLE} (there: {', '.join(table.columns)}); download it again")
    samples = tuple(table[_SAMPLE].dropna().str.strip())
    if not samples:
        raise DataError(f"{path} names no sample; download it again")
    missing = [name for name in samples if name not in known]
    if missing:
        raise DataError(
            f"{path} names {listed(map(repr, missing))}, without adata/{missing[0]}.h5ad in {setting('data.root')}; "
            "download it"
        )
    return samples
