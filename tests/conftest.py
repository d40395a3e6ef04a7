"""Fixtures that every room shares, and how the suite is run."""

from __future__ import annotations

import atexit
import gc
import hashlib
import logging
import multiprocessing as mp
import os
import pickle
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from functools import cache, partial
from importlib import metadata
from multiprocessing import forkserver as server
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import settings
from threadpoolctl import threadpool_limits
from xdist.scheduler import LoadFileScheduling

from .examples import USUAL

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from nh2st_graph.config import Config
    from nh2st_graph.tl import Run

    from .hub import Hub

# Matrices of the tests are tiny, and threads that wait for each other on a busy machine take far longer than they.
# Libraries read these when they are loaded; numba would give its number to torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")
# A plugin of pytest has loaded numpy before this file, in the process that was started by hand (-n 0).
threadpool_limits(int(os.environ["OMP_NUM_THREADS"]), user_api="blas")
# To compile what scanpy and squidpy count with takes each process half a minute, and Python a moment for a few spots.
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")

# Arrays come and go all the time. A page that is given back and asked for again is cleared anew: a twentieth of the
# time. This is glibc's, and the processes that run tests read it when they start.
for name, size in {"MALLOC_TRIM_THRESHOLD_": 2_000_000_000, "MALLOC_MMAP_THRESHOLD_": 500_000_000}.items():
    os.environ.setdefault(name, str(size))

# Files of the tests are small and many. In memory, a folder of eight comes and goes in half a millisecond, on a disk in
# twenty. Those of tests that pass are removed at once (setup.cfg).
_MEMORY = Path("/dev/shm")
if "TMPDIR" not in os.environ and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 4e9:
    os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY)

# Lightning asks all installed packages for extensions, for every trainer anew: 20 ms.
metadata.entry_points = cache(metadata.entry_points)
# AnnData asks for the version of zarr for every array that it writes: 30 ms a store.
metadata.version = cache(metadata.version)

# There is no garbage while libraries and tests are loaded.
gc.set_threshold(0)

# The suite draws the same examples on every machine. A long run draws new ones, and more of them:
# uv run pytest -m hypothesis --hypothesis-profile=long
settings.register_profile("suite", deadline=None, derandomize=True, max_examples=USUAL)
settings.register_profile("long", deadline=None, max_examples=1000)
settings.load_profile("suite")


def pytest_configure(config: pytest.Config) -> None:
    """Keep byte code with pytest's cache where none may be written beside the sources.

    Each process that runs tests, or that a test starts, would compile torch and the rest anew: 20 s of work. Tests
    that interrupt a run also need Python's handler, which is not there if the suite was started in the background.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cache = getattr(config, "cache", None)  # there is none without the plugin
    if sys.dont_write_bytecode and cache is not None:
        sys.dont_write_bytecode = False
        sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = str(cache.mkdir("bytecode"))
        del os.environ["PYTHONDONTWRITEBYTECODE"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that have slow tests, so that no process works alone at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Leave no figure open for the tests after this one."""
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


class _Together(LoadFileScheduling):
    """Give a file to one process, and all files that start processes to the same one: its server is started once."""

    _OF_PROCESSES = frozenset({"study/test_cluster.py", "study/test_workers.py", "tl/test_resume.py"})

    def _split_scope(self, nodeid: str) -> str:
        file = str(super()._split_scope(nodeid))
        return "tests/train/test_processes.py" if file.removeprefix("tests/") in self._OF_PROCESSES else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Together | None:
    """Say which process runs which tests, where none has been asked for on the command line."""
    return _Together(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_finish() -> None:
    """Leave what libraries made when they were loaded out of each search for garbage, a tenth of the suite's time.

    Garbage is searched for all the time with Python's own threshold, which is of smaller programs.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    # torch has sixty loggers that pass nothing on. To each of them, pytest adds two handlers three times a test.
    for name, logger in logging.root.manager.loggerDict.items():
        if name.partition(".")[0] == "torch" and isinstance(logger, logging.Logger):
            logger.propagate = True


def pytest_unconfigure() -> None:
    """Let libraries find that all of theirs is gone, or they complain; in a worker, nobody looks at what it leaves.

    To take all apart that a worker has loaded takes it 3 s, and to search it for garbage a last time, as pytest does,
    half a second more.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        gc.freeze()
        atexit.register(os._exit, 0)
    else:
        gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the feature cache of whoever runs the tests out of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NH2ST_GRAPH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _disks_are_not_waited_for() -> Iterator[None]:
    """Leave what tests write to the system: none of them pulls the plug, and each file waits 3 ms for its disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _tissue_is_found_once() -> Iterator[None]:
    """Keep where the tissue of an image lies: tests of other things look at the same few images again and again."""
    from nh2st_graph import slide
    from nh2st_graph.im import _stain
    from nh2st_graph.section import _placement

    found: dict[tuple[bytes, tuple[int, ...], float], NDArray[np.bool_]] = {}

    def kept(image: NDArray[np.uint8], microns_per_pixel: float) -> NDArray[np.bool_]:
        key = hashlib.sha256(np.ascontiguousarray(image)).digest(), image.shape, float(microns_per_pixel)
        if key not in found:
            found[key] = slide.tissue_mask(image, microns_per_pixel)
        return found[key].copy()

    with pytest.MonkeyPatch.context() as patch:
        for each in (_stain, _placement):
            patch.setattr(each, "tissue_mask", kept)
        yield


@pytest.fixture(scope="session", autouse=True)
def _coarse_figures() -> Iterator[None]:
    """Write figures at half of their resolution: much of the time that they take is spent on pixels."""
    from matplotlib.figure import Figure

    save = Figure.savefig

    def coarse(self: Figure, *args: object, **kwargs: object) -> None:
        save(self, *args, **{**kwargs, "dpi": 75})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", coarse)
        yield


@pytest.fixture(scope="session", autouse=True)
def _without_a_compiler() -> Iterator[None]:
    """Let scanpy do as Python what it does compiled, and cluster by its quicker kernel; CI's demo compiles all."""
    import scanpy as sc
    from scanpy.preprocessing import _normalization

    normalize = getattr(_normalization, "_normalize_csr", None)  # earlier versions have none

    def defined(*args: Any, exclude_highly_expressed: bool, max_fraction: float, **kwargs: Any) -> Any:
        # One of the two results is of this branch alone, and in Python not there without it.
        share = max_fraction if exclude_highly_expressed else float("inf")
        return normalize(*args, exclude_highly_expressed=True, max_fraction=share, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        if normalize is not None:
            patch.setattr(_normalization, "_normalize_csr", defined)
        patch.setattr(sc.pp, "neighbors", partial(sc.pp.neighbors, method="gauss"))
        yield


@pytest.fixture(scope="session", autouse=True)
def _tissue_is_drawn_once() -> Iterator[None]:
    """Keep the synthetic sections of runs, without the truth: to draw their images takes longer than a few epochs."""
    from nh2st_graph.section import library
    from nh2st_graph.tl import _run

    from .tissue import without_truth

    draw = _run._synthetic
    drawn: dict[str, dict[str, tuple[AnnData, bytes]]] = {}

    def kept(config: Config, folder: Path | None) -> dict[str, AnnData]:
        key = config.data.synthetic.model_dump_json()
        if folder is None or key not in drawn:
            made = {name: without_truth(adata) for name, adata in draw(config, folder).items()}
            drawn[key] = {n: (adata.copy(), Path(library(adata).source).read_bytes()) for n, adata in made.items()}
            return made
        sections = {name: adata.copy() for name, (adata, _) in drawn[key].items()}
        folder = Path(folder).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for name, adata in sections.items():
            (folder / f"{name}.jpg").write_bytes(drawn[key][name][1])
            library(adata).metadata["source_image_path"] = str(folder / f"{name}.jpg")
        return sections

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_run, "_synthetic", kept)
        yield


@pytest.fixture(scope="session", autouse=True)
def _variable_genes_are_found_once() -> Iterator[None]:
    """Keep which genes of the same counts vary most: many tests train on the same few sections."""
    import scanpy as sc

    find = sc.pp.highly_variable_genes
    found: dict[tuple[Any, ...], tuple[pd.DataFrame, dict[str, Any]]] = {}

    def kept(adata: AnnData, *, batch_key: str | None = None, **options: Any) -> None:
        of_spot = b"" if batch_key is None else adata.obs[batch_key].to_numpy(str).tobytes()
        parts = (adata.X.data, adata.X.indices, adata.X.indptr, adata.var_names.to_numpy(str))
        content = hashlib.sha256(b"|".join([of_spot, *(part.tobytes() for part in parts)])).digest()
        key = content, adata.shape, adata.X.dtype, tuple(sorted(options.items()))
        if key not in found:
            there = set(adata.var)
            find(adata, batch_key=batch_key, **options)
            found[key] = adata.var[[name for name in adata.var if name not in there]].copy(), adata.uns["hvg"]
            return
        adata.var = adata.var.join(found[key][0])
        adata.uns["hvg"] = dict(found[key][1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sc.pp, "highly_variable_genes", kept)
        yield


@pytest.fixture
def own_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget after the test which encoders it registered."""
    from nh2st_graph.im import _encoders

    monkeypatch.setattr(_encoders, "_REGISTRY", dict(_encoders._REGISTRY))


@pytest.fixture
def own_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget after the test which formats it registered."""
    from nh2st_graph.read import _registry

    for name in ("_READERS", "_LISTINGS"):
        monkeypatch.setattr(_registry, name, dict(getattr(_registry, name)))


@pytest.fixture
def own_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget after the test which methods it registered."""
    from nh2st_graph.models import _registry

    _registry.known_methods()  # loads those of this package, for good
    monkeypatch.setattr(_registry, "_METHODS", dict(_registry._METHODS))


@pytest.fixture(scope="session")
def forkserver() -> ForkServerContext:
    """Start processes in no time: a server has loaded everything once, has used no thread yet, and is copied."""
    context = mp.get_context("forkserver")
    # Packages are lazy: the module that fits loads what a fit needs. Lightning asks for the last two when it begins.
    ours = ["nh2st_graph.cli", "nh2st_graph.tl._run"]
    preload = [*ours, "squidpy", "distributed", "lightning.pytorch", "torch.utils.tensorboard", "s3fs"]
    context.set_forkserver_preload(preload)
    server.ensure_running()  # now, since Dask has libraries of its own for it
    return context


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real sections beside the project; tests that need it skip where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real sections are not here ({folder.name} beside the project)")
    return folder


@pytest.fixture(scope="session")
def shared_by_all(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all processes of this run of the suite share; use it under a lock."""
    ours = tmp_path_factory.getbasetemp()
    return ours if worker_id == "master" else ours.parent


@pytest.fixture(scope="session")
def her2st_crops(shared_data: Path, shared_by_all: Path) -> Path:
    """Five sections of HER2ST, some 40 spots of each, in the layout of the public repository. Copy what you change."""
    from .real import crop

    folder, done = shared_by_all / "her2st", shared_by_all / "her2st.done"
    with FileLock(shared_by_all / "her2st.lock"):
        if not done.exists():
            for name in ("B4", "C3", "C4", "C5", "C6"):
                crop(shared_data / "her2st" / "data", folder / "data", name)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def small_visium(shared_data: Path, shared_by_all: Path) -> Path:
    """A section of Visium, 100 spots on smaller images, as Space Ranger's folder. Copy what you change."""
    from .real import shrink_visium

    folder, done = shared_by_all / "visium", shared_by_all / "visium.done"
    with FileLock(shared_by_all / "visium.lock"):
        if not done.exists():
            shrink_visium(shared_data / "visium_tiny", folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def after_the_readme(shared_data: Path, her2st_crops: Path, shared_by_all: Path) -> Path:
    """A folder where every command of the README was typed in order, except studies. Copy what you change."""
    from .readme import follow_the_readme

    place, done = shared_by_all / "readme", shared_by_all / "readme.done"
    with FileLock(shared_by_all / "readme.lock"):
        if not done.exists():
            follow_the_readme(place, shared_data, her2st_crops)
            done.touch()
    return place


@pytest.fixture(scope="session")
def tiny_config() -> Config:
    """Everything small: three synthetic sections of some 60 spots and 15 genes, a narrow model, two epochs."""
    from nh2st_graph.config import Config

    values = {
        "data": {
            "format": "synthetic",
            "train": ["S1", "S2"],
            "test": ["S3"],
            "panel": "hvg:12",
            "synthetic": {"n_sections": 3, "n_rows": 8, "n_cols": 8, "n_own": 6, "n_neighbour": 6, "n_noise": 3},
        },
        # Patches of the spots alone: larger ones show the neighbours too.
        "features": {"encoder": "squidpy:summary", "patch_um": 112},
        "model": {"width": 16, "n_components": 8, "heads": 2},
        "train": {
            "max_epochs": 2,
            "batch_spots": 64,
            "device": "cpu",
            "progress": False,
        },
    }
    return Config.parse(values)


@pytest.fixture(scope="session")
def _tiny(tiny_config: Config, shared_by_all: Path) -> tuple[Run, dict[str, AnnData]]:
    """One run and its sections, which the first process that needs them makes for all."""
    from nh2st_graph import tl

    from .tissue import without_truth

    kept = shared_by_all / "tiny.pickle"
    with FileLock(shared_by_all / "tiny.lock"):
        if not kept.exists():
            run = tl.train_run(tiny_config, shared_by_all / "tiny")
            sections = tl.load_sections(tiny_config, run.folder / "tissue")
            kept.write_bytes(pickle.dumps((run, {name: without_truth(each) for name, each in sections.items()})))
    made: tuple[Run, dict[str, AnnData]] = pickle.loads(kept.read_bytes())
    return made


@pytest.fixture(scope="session")
def tiny_run(_tiny: tuple[Run, dict[str, AnnData]]) -> Run:
    """A finished run of ``tiny_config``. It is shared: copy what you change."""
    return _tiny[0]


@pytest.fixture(scope="session")
def tiny_sections(_tiny: tuple[Run, dict[str, AnnData]]) -> dict[str, AnnData]:
    """The sections of ``tiny_run``, without what they were drawn from. They are shared: copy what you change."""
    return _tiny[1]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A small Hugging Face hub in place of the real one, with an empty cache."""
    from .hub import start_hub

    made = start_hub(tmp_path / "hub", tmp_path / "hub-cache", monkeypatch)
    yield made
    made.stop()


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs draw no figures: other tests look at them."""
    monkeypatch.setattr("nh2st_graph.tl._run.write_figures", lambda *_: [])


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Keep features of 16 spots at a time, in an empty folder, which is returned."""
    monkeypatch.setattr("nh2st_graph.im._features._PART_SPOTS", 16)
    monkeypatch.setenv("NH2ST_GRAPH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"
