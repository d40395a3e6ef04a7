"""Files of every reader, changed at random: each is read and right, or refused by an error of ours.

A change is drawn from a :class:`random.Random`, which hypothesis can give, so that an input is known by its number.
"""

from __future__ import annotations

import gzip
import json
import math
import random
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from PIL import Image
from scipy import sparse
from scipy.io import mmwrite

from nh2st_graph import gr
from nh2st_graph._errors import NH2STGraphError
from nh2st_graph.config import load_config
from nh2st_graph.datasets import read_panel
from nh2st_graph.im._embedding_files import read_embeddings
from nh2st_graph.read import (
    anndata_section,
    h5ad_section,
    her2st,
    hest,
    spatialdata_section,
    stimage,
    stnet,
    visium_hd_section,
    visium_section,
    write_h5ad,
    write_spatialdata,
)
from nh2st_graph.section import check_section, full_image, library
from nh2st_graph.slide import open_slide

from .read import conftest, test_stimage, test_stnet

ACCEPTED, REFUSED, TRACEBACK, HANG, WRONG = "accepted", "refused", "traceback", "hang", "wrong"

#: Values that a cell, a number of JSON or an array may have where another one is meant.
ODD: list[Any] = [math.nan, math.inf, -math.inf, -1, 0, 1e30, -1e30, 1.5, 10**400, 2**63, 2**31, True, None, "", "text"]
ODD += ["0", "1e999", "é\u200b", "a,b\tc", " ", "../../x", "-", [], {}, [1, 2], {"a": 1}]


class TooLongError(BaseException):
    """The time of an input is over."""


@dataclass
class Seed:
    """Files of one kind, and how they are read.

    Attributes
    ----------
    root
        The folder of the files.
    files
        Those that are changed.
    read
        Reads a copy of the folder; what it gives is checked.
    check
        Says what is wrong with what was read; None if nothing is.
    """

    root: Path
    files: list[Path]
    read: Callable[[Path], Any]
    check: Callable[[Any], str | None]


def checked_section(adata: AnnData, need: tuple[str, ...] = ("genes", "image")) -> str | None:
    """What is wrong with a section that was accepted, by other code than the contract's own."""
    values = adata.X.data if sparse.issparse(adata.X) else np.asarray(adata.X)
    spatial = np.asarray(adata.obsm["spatial"], dtype=float)
    if "genes" in need and not (np.isfinite(values).all() and (values >= 0).all() and (values == values.round()).all()):
        return "counts are no counts"
    if spatial.shape != (adata.n_obs, 2) or not np.isfinite(spatial).all():
        return "positions are no numbers"
    if not (adata.obs_names.is_unique and adata.n_obs):
        return "names of spots"
    if "image" in need:
        found = full_image(adata)
        if not 0 < found.microns_per_pixel < math.inf:
            return "resolution"
        with open_slide(found.path) as slide:
            if (spatial < 0).any() or (spatial >= slide.sizes[0]).any():
                return "spots outside the image"
    return None


def seeds(folder: Path) -> dict[str, Seed]:
    """Write small files of every kind."""
    made: dict[str, Seed] = {}
    for name in ("her2st", "visium", "hd", "hest", "patches", "stimage", "stnet"):
        (folder / name).mkdir()

    def section(kind: str, root: Path, files: list[Path], read: Callable[[Path], Any]) -> None:
        made[kind] = Seed(root, files, read, checked_section)

    def only(sections: dict[str, AnnData]) -> AnnData:
        return next(iter(sections.values()))

    tables = conftest.st_tables.__wrapped__()()
    st = conftest.write_her2st.__wrapped__(folder / "her2st")(tables, packed=False)
    section("her2st", st.root, [st.counts, st.spots, st.image], lambda root: only(her2st(root)))
    visium = conftest.write_visium.__wrapped__(folder / "visium")()
    where = visium.folder
    factors, hires = where / "spatial/scalefactors_json.json", where / "spatial/tissue_hires_image.png"
    section("visium", where, [visium.counts_file, visium.positions_file, factors, hires], visium_section)
    hd = conftest.write_visium_hd.__wrapped__(folder / "hd")()
    bins = hd.bins[16].folder
    spatial = bins / "spatial"
    files = [bins / "filtered_feature_bc_matrix.h5", spatial / "tissue_positions.parquet"]
    section(
        "visium_hd", hd.outs.parent, [*files, spatial / "scalefactors_json.json"], lambda r: visium_hd_section(r, 16)
    )
    of_hest = conftest.write_hest.__wrapped__(folder / "hest")()
    section("hest", of_hest.root, [of_hest.st, of_hest.metadata, of_hest.wsis], lambda root: only(hest(root)))
    patches = conftest.write_hest.__wrapped__(folder / "patches")(parts=("st", "patches", "metadata"))
    section("hest patches", patches.root, [patches.patches, patches.st], lambda root: only(hest(root)))
    image = test_stimage.write.__wrapped__(folder / "stimage")()
    section("stimage", image.root, [image.coord, image.counts], lambda root: only(stimage(root)))
    net = test_stnet.write.__wrapped__(folder / "stnet", None)("code", tables)
    section("stnet", net.root, [net.counts, net.spots, net.image], lambda root: only(stnet(root)))
    plain = only(hest(of_hest.root))
    for kind, read in (("h5ad", h5ad_section), ("anndata", anndata_section)):
        root = folder / kind
        root.mkdir()
        shutil.copy(of_hest.wsis, root / "slide.tif")
        stored = plain.copy()
        library(stored).metadata["source_image_path"] = "slide.tif"
        stored.uns["note"] = {"by": "hand", "n": 3}
        write_h5ad(stored, root / "S.h5ad")
        need = ("image",) if kind == "h5ad" else ("genes", "image")
        made[kind] = Seed(
            root,
            [root / "S.h5ad"],
            lambda r, read=read: check_section(read(r / "S.h5ad"), need=("genes", "image")),
            lambda adata, need=need: checked_section(adata, need),
        )
    made |= _other_seeds(folder, plain)
    store = folder / "store" / "S.zarr"
    write_spatialdata(plain, store, image="hires")
    files = sorted(path for path in store.rglob("*") if path.is_file())
    section("spatialdata", store, files, lambda r: check_section(spatialdata_section(r), need=("genes", "image")))
    matrix = folder / "mtx"
    shutil.copytree(where, matrix)
    (matrix / visium.counts_file.name).unlink()
    (matrix / "filtered_feature_bc_matrix").mkdir()
    files = [matrix / "filtered_feature_bc_matrix" / name for name in ("matrix.mtx", "barcodes.tsv", "features.tsv")]
    mmwrite(files[0], sparse.coo_matrix(visium.counts.to_numpy().T))
    files[1].write_text("".join(f"{barcode}\n" for barcode in visium.counts.index))
    files[2].write_text("".join(f"ENSG{i}\t{gene}\tGene Expression\n" for i, gene in enumerate(visium.counts)))
    section("visium mtx", matrix, files, visium_section)
    patients = folder / "patients"
    shutil.copytree(st.root, patients)
    (patients / "ids.csv").write_text("sample_id,patient\nA1,P1\nA2,P2\n")
    section("patients", patients, [patients / "ids.csv"], lambda root: only(her2st(root)))
    return made


def _other_seeds(folder: Path, plain: AnnData) -> dict[str, Seed]:
    made = {}
    root = folder / "files"
    root.mkdir()
    (root / "config.yaml").write_text(
        "seed: 3\ndata: {root: x, train: [A, B], test: [C], panel: 'hvg:250'}\nfeatures:\n  encoder: squidpy:summary\n"
        "  patch_um: 112\nmodel: {width: 16}\ntrain: {max_epochs: 3, learning_rate: 0.001}\n"
    )
    made["configuration"] = Seed(root, [root / "config.yaml"], lambda r: load_config(r / "config.yaml"), lambda _: None)
    (root / "panel.txt").write_text("GAPDH\nERBB2\nFASN\n")
    (root / "panel.json").write_text('{"genes": ["GAPDH", "ERBB2"]}')
    (root / "panel.csv").write_text("gene,score\nGAPDH,1\nERBB2,2\n")
    for ending in ("txt", "json", "csv"):
        made[f"panel {ending}"] = Seed(
            root, [root / f"panel.{ending}"], lambda r, e=ending: read_panel(r / f"panel.{e}"), _checked_panel
        )
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    for ending, options in (("png", {}), ("jpg", {}), ("tif", {"compression": "tiff_lzw"}), ("bmp", {})):
        Image.fromarray(pixels).save(root / f"image.{ending}", **options)
        made[f"image {ending}"] = Seed(
            root, [root / f"image.{ending}"], lambda r, e=ending: _thumbnail(r / f"image.{e}"), _checked_image
        )
    features = pd.DataFrame(np.random.default_rng(1).normal(size=(6, 4)), index=[f"s{i}" for i in range(6)])
    features.rename_axis("barcode").to_csv(root / "features.csv")
    np.savez(root / "features.npz", features=features.to_numpy(np.float32), names=features.index.to_numpy("U"))
    with h5py.File(root / "features.h5", "w") as file:
        file["features"], file["coords"] = features.to_numpy(np.float32), np.arange(12).reshape(6, 2)
    for ending in ("csv", "npz", "h5"):
        made[f"embeddings {ending}"] = Seed(
            root, [root / f"features.{ending}"], lambda r, e=ending: read_embeddings(r / f"features.{e}"), _checked_rows
        )
    plain.write_h5ad(root / "contract.h5ad")
    made["contract"] = Seed(root, [], lambda r: ad.read_h5ad(r / "contract.h5ad"), checked_section)
    return made


def _thumbnail(path: Path) -> Any:
    with open_slide(path) as slide:
        return slide.sizes[0], slide.thumbnail(50)[0]


def _checked_image(found: Any) -> str | None:
    (width, height), small = found
    return None if width > 0 and height > 0 and small.ndim == 3 and small.dtype == np.uint8 else "shape"


def _checked_panel(genes: list[str]) -> str | None:
    return None if genes and len(set(genes)) == len(genes) and all(isinstance(g, str) and g for g in genes) else "genes"


def _checked_rows(found: Any) -> str | None:
    # Rows of no spot may hold anything; those of spots are looked at when they are joined.
    return None if found.values.ndim == 2 and found.values.dtype.kind in "fu" else "features are no numbers"


def try_input(seed: Seed, rng: random.Random, folder: Path, limit_s: float = 20.0) -> tuple[str, str]:
    """Change a copy of the files of a seed and read it.

    Returns
    -------
    What came of it: ``accepted``, ``refused``, ``traceback``, ``hang`` or ``wrong``; and what was changed, with the
    error.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(seed.root, folder)
    changed: Any = None
    if seed.files:
        path = folder / rng.choice(seed.files).relative_to(seed.root)
        change = change_file(path, rng)
    else:
        changed = seed.read(folder)
        change = change_section(changed, rng)
    try:
        with _time_limit(limit_s), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = seed.read(folder) if changed is None else used(changed)
            wrong = seed.check(found)
    except NH2STGraphError as error:
        text = str(error)
        told = WRONG if "\n" in text or not text else REFUSED
        return told, f"{change}: {text}"
    except TooLongError:
        return HANG, change
    except Exception as error:  # this is what is looked for
        return TRACEBACK, f"{change}: {_where(error)}"
    return (ACCEPTED, change) if wrong is None else (WRONG, f"{change}: {wrong}")


def used(adata: AnnData) -> AnnData:
    """What the package does with a section before it trains."""
    check_section(adata, need=("genes", "image"))
    gr.spatial_graph(adata)
    return adata


def _where(error: BaseException) -> str:
    trace, places = error.__traceback__, []
    while trace is not None:
        place = Path(trace.tb_frame.f_code.co_filename)
        if "nh2st_graph" in place.parts:
            places.append(f"{place.parent.name}/{place.name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{type(error).__name__}: {' '.join(str(error).split())[:150]} at {places[-1] if places else 'outside'}"


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def change_file(path: Path, rng: random.Random) -> str:
    """Change a file, by its bytes or by what they mean; say how."""
    name, ways = path.name, [_bytes]
    if name.endswith((".csv", ".tsv", ".mtx", ".tsv.gz", ".csv.gz", ".txt", ".parquet")):
        ways += [_table] * 3
    elif name.endswith(".json"):
        ways += [_json] * 3
    elif name.endswith((".h5", ".h5ad")):
        ways += [_hdf5] * 4
    elif name.endswith(".yaml"):
        ways += [_yaml] * 2
    way = rng.choice(ways)
    try:
        return f"{name}: {way(path, rng)}"
    except (ValueError, TypeError, KeyError, OSError, OverflowError, RuntimeError, AttributeError) as error:
        # The library that writes such files has no form for this one.
        return f"{name}: not written ({type(error).__name__}), then {_bytes(path, rng)}"


def _bytes(path: Path, rng: random.Random) -> str:
    content = bytearray(path.read_bytes())
    at = rng.randrange(max(1, len(content)))
    many = rng.choice([1, 1, 4, 64, 1024])
    what = rng.choice(["flip", "cut", "zero", "double", "insert", "empty", "swap"])
    if what == "flip":
        for _ in range(min(many, 20)):
            i = rng.randrange(max(1, len(content)))
            content[i : i + 1] = bytes([content[i] ^ (1 << rng.randrange(8))] if content else [])
    elif what == "cut":
        del content[at:]
    elif what == "zero":
        content[at : at + many] = bytes(len(content[at : at + many]))
    elif what == "double":
        content[at:at] = content[at : at + many]
    elif what == "insert":
        content[at:at] = rng.randbytes(min(many, 64))
    elif what == "empty":
        content = bytearray(rng.randbytes(rng.choice([0, 1, 8])))
    else:
        content = content[at:] + content[:at]
    path.write_bytes(content)
    return f"{what} at {at} ({many})"


def _table(path: Path, rng: random.Random) -> str:
    """Change a row, a column or a cell of a table."""
    packed, parquet = path.suffix == ".gz", path.suffix == ".parquet"
    separator = "," if ".csv" in path.suffixes else "\t"
    if parquet:
        rows = [[*pd.read_parquet(path).columns], *pd.read_parquet(path).to_numpy(object).tolist()]
    else:
        text = gzip.decompress(path.read_bytes()).decode() if packed else path.read_text()
        rows = [line.split(separator) for line in text.splitlines()]
    row, column = rng.randrange(len(rows)), rng.randrange(len(rows[-1]))
    what = rng.choice(["cell", "cell", "cell", "header", "drop column", "drop rows", "double row", "swap", "column"])
    odd = rng.choice(ODD)
    if what == "cell":
        rows[row][column : column + 1] = [odd]
    elif what == "header":
        rows[0][column : column + 1] = [rng.choice([odd, *rows[0]])]
    elif what == "column":
        for each in rows[1:]:
            each[column : column + 1] = [odd]
    elif what == "drop column":
        for each in rows:
            del each[column : column + 1]
    elif what == "drop rows":
        del rows[rng.choice([0, 1, row]) :]
    elif what == "double row":
        rows.insert(row, list(rows[row]))
    else:
        other = rng.randrange(len(rows))
        rows[row], rows[other] = rows[other], rows[row]
    if parquet:
        table = pd.DataFrame(rows[1:], columns=[str(name) for name in rows[0]] if rows else None)
        for name in table.select_dtypes(object):
            with suppress(ValueError, TypeError):
                table[name] = pd.to_numeric(table[name])
        table.to_parquet(path)
    else:
        text = "".join(separator.join("" if cell is None else str(cell) for cell in each) + "\n" for each in rows)
        path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    return f"{what} {row}, {column}: {str(odd)[:20]!r}"


def _json(path: Path, rng: random.Random) -> str:
    values = json.loads(path.read_text())
    key = rng.choice(sorted(values))
    what = rng.choice(["value", "value", "value", "drop", "deep", "whole"])
    odd = rng.choice(ODD)
    if what == "value":
        values[key] = odd
    elif what == "drop":
        del values[key]
    elif what == "whole":
        values = odd
    text = json.dumps(values)
    path.write_text(text.replace("{", '{"a":' * 5000 + "{", 1) + "}" * 5000 if what == "deep" else text)
    return f"{what} of {key}: {str(odd)[:20]!r}"


def _yaml(path: Path, rng: random.Random) -> str:
    words = path.read_text().split(" ")
    at = rng.randrange(len(words))
    odd = rng.choice([*map(str, ODD), "!!int x", "&a [*a]", "[" * 3000, "{", "}", ":", "- ", "!!binary x", "\t", "*b"])
    words[at] = odd
    path.write_text(" ".join(words))
    return f"word {at}: {odd[:20]!r}"


def _hdf5(path: Path, rng: random.Random) -> str:
    """Change a dataset, a group or an attribute."""
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        name = rng.choice(names)
        node = file[name]
        what = rng.choice(["drop", "rename", "attribute", "value", "value", "type", "type", "shape", "replace"])
        if what == "rename":
            file.move(name, f"{name}_")
        elif what == "attribute" and len(node.attrs):
            key = rng.choice(sorted(node.attrs))
            odd = rng.choice([None, 0, -1, "text", 2.5, [1, 2, 3], "csc_matrix", "dataframe", "array", "0.3.0"])
            if odd is None:
                del node.attrs[key]
            else:
                node.attrs[key] = odd
            return f"{name} attribute {key}: {odd!r}"
        elif isinstance(node, h5py.Dataset) and what in {"value", "type", "shape", "replace"}:
            return f"{name} {what} {_dataset(file, name, what, rng)}"
        else:
            del file[name]
        return f"{what} {name}"


def _dataset(file: h5py.File, name: str, what: str, rng: random.Random) -> str:
    values, about = file[name][()], dict(file[name].attrs)
    odd: Any = rng.choice(ODD)
    if what == "value" and np.size(values):
        flat = np.array(values, dtype=None if np.asarray(values).dtype.kind in "SUO" else float).reshape(-1)
        flat[rng.randrange(flat.size)] = odd if flat.dtype.kind != "O" else str(odd)
        values = flat.reshape(np.shape(values))
    elif what == "type":
        odd = rng.choice(["S8", "f2", "f8", "c16", "i1", "u8", "?", "i8"])
        values = np.asarray(values).astype(odd)
    elif what == "shape":
        odd = rng.choice(["half", "twice", "flat", "more", "scalar", "none"])
        flat = np.asarray(values)
        flat = flat.reshape(1) if flat.ndim == 0 else flat
        values = {
            "half": lambda: flat[: len(flat) // 2],
            "twice": lambda: np.concatenate([flat, flat]),
            "flat": flat.ravel,
            "more": lambda: flat[None],
            "scalar": lambda: flat.ravel()[0],
            "none": lambda: flat[:0],
        }[odd]()
    else:
        values = odd
    del file[name]
    file[name] = values
    file[name].attrs.update(about)
    return str(odd)[:20]


def change_section(adata: AnnData, rng: random.Random) -> str:
    """Change a part of a section in memory, as a caller may have made it."""
    odd = rng.choice(ODD)
    what = rng.choice(["obs", "obs column", "obsm", "uns", "entry", "X", "X type", "names", "genes", "part"])
    try:
        if what == "obs":
            del adata.obs[rng.choice(list(adata.obs))]
        elif what == "obs column":
            column = rng.choice(list(adata.obs))
            values = list(adata.obs[column])
            values[rng.randrange(len(values))] = odd
            adata.obs[column] = pd.Series(values, index=adata.obs_names, dtype=rng.choice([None, object, "category"]))
        elif what == "obsm":
            values = np.array(adata.obsm["spatial"], dtype=rng.choice(["f8", "f4", "i8", "object", "c16", "U8"]))
            values.ravel()[rng.randrange(values.size)] = odd
            adata.obsm["spatial"] = rng.choice([lambda v: v, sparse.csr_matrix, pd.DataFrame, np.atleast_3d])(values)
        elif what == "uns":
            adata.uns["spatial"] = rng.choice([odd, {}, {"A": odd}, {"A": {}, "B": {}}])
        elif what in {"entry", "part"}:
            entry = next(iter(adata.uns["spatial"].values()))
            part = rng.choice(sorted(entry))
            if what == "part":
                entry[part] = odd
            else:
                entry[part][rng.choice(sorted(entry[part]))] = odd
        elif what == "X":
            adata.X.data[rng.randrange(len(adata.X.data))] = odd
        elif what == "X type":
            adata.X = adata.X.toarray().astype(rng.choice(["c16", "U4", "f2", "?", "i8", "u8", "O", "M8[s]"]))
        elif what == "names":
            adata.obs_names = [rng.choice([str(odd), "a"]) for _ in range(adata.n_obs)]
        else:
            adata.var_names = [rng.choice([str(odd), "a"]) for _ in range(adata.n_vars)]
    except (ValueError, TypeError, KeyError, OverflowError, IndexError, AttributeError, NotImplementedError) as error:
        return f"{what}: refused by AnnData ({type(error).__name__})"
    return f"{what}: {str(odd)[:20]!r}"
