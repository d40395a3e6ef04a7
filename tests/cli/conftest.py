"""Commands that must refuse, or do their work; and files of sections to spoil."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from PIL import Image
from scipy import sparse

from nh2st_graph.cli import main

Refuse = Callable[..., str]

#: Settings of a run that takes no time.
QUICK = {
    "features.encoder": "squidpy:summary",
    "model.width": "16",
    "model.heads": "2",
    "train.max_epochs": "1",
    "train.refit": "false",
    "train.device": "cpu",
    "train.progress": "false",
    "evaluate.figures": "false",
}


def settings(changes: dict[str, object]) -> list[str]:
    return [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder, and what it holds."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@pytest.fixture
def refuse(tmp_path, capsys) -> Refuse:
    """Run a command that must refuse, and return what it says; there may be notices about other things before it."""

    def run(*arguments: object, notices: int = 0) -> str:
        before = tree(tmp_path)
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert end.value.code == 2
        assert out == ""
        *before_it, line = err.splitlines()
        # Which encoders the default takes is said once a process, by whichever test is first.
        before_it = [notice for notice in before_it if not notice.startswith("encoder auto: ")]
        assert len(before_it) <= notices, err
        assert line.startswith("error: ")
        assert len(line) < 600
        assert tree(tmp_path) == before, "left behind"
        return line

    return run


@pytest.fixture
def accept(capsys) -> Callable[..., str]:
    """Run a command that must do its work, and return what it says."""

    def run(*arguments: object) -> str:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        assert end.value.code == 0
        return "".join(capsys.readouterr())

    return run


@pytest.fixture
def triangle(tmp_path) -> AnnData:
    """A section A1 on a flat triangle of tissue, that any other reading of its coordinates would put off it."""
    x, y = np.meshgrid(np.arange(500), np.arange(400))
    tissue = (x > 60) & (y > 60) & (x / 480 + y / 160 < 1)
    Image.fromarray(np.where(tissue[..., None], [190, 110, 160], [243, 242, 244]).astype(np.uint8)).save(
        tmp_path / "A1.png"
    )
    spots = np.argwhere(tissue & (x % 10 == 0) & (y % 10 == 0))[:, ::-1]
    names = pd.Categorical(["A1"] * len(spots))
    return AnnData(
        sparse.csr_matrix(np.random.default_rng(0).poisson(3.0, (len(spots), 5))),
        pd.DataFrame({"section": names, "patient": names}, [f"spot{i}" for i in range(len(spots))]),
        pd.DataFrame(index=["ERBB2", "GAPDH", "GNAS", "ACTB", "FASN"]),
        obsm={"spatial": spots.astype(np.float64)},
        uns={
            "spatial": {
                "A1": {
                    "metadata": {"source_image_path": str(tmp_path / "A1.png"), "microns_per_pixel": 20.0},
                    "scalefactors": {"spot_diameter_fullres": 5.0},
                }
            }
        },
    )


#: Changes of its coordinates, and what is said of them.
MISPLACED: dict[str, tuple[Callable[[AnnData], object], str]] = {
    "swapped": (
        lambda a: a.obsm.__setitem__("spatial", a.obsm["spatial"][:, ::-1].copy()),
        "x and y look swapped",
    ),
    "scaled": (
        lambda a: a.obsm.__setitem__("spatial", a.obsm["spatial"] / 4),
        "coordinates look scaled by 0.25",
    ),
}


@pytest.fixture
def config(tmp_path) -> Path:
    """A configuration file that says nothing: everything is set on the command line."""
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    return tmp_path / "config.yaml"


@dataclass
class Files:
    """Files of one section in the layout of the HER2ST repository, and their tables."""

    counts_file: Path
    spots_file: Path
    image: Path
    counts: pd.DataFrame
    spots: pd.DataFrame

    def write(self) -> None:
        self.counts_file.write_bytes(gzip.compress(self.counts.to_csv(sep="\t").encode(), mtime=0))
        self.spots.to_csv(self.spots_file, sep="\t", index=False)


def st_section(root: Path, name: str, seed: int) -> Files:
    """Write a section of 4 x 6 spots, 40 pixels or 200 um apart."""
    rng = np.random.default_rng(seed)
    x, y = (each.ravel() for each in np.meshgrid(np.arange(2, 8), np.arange(5, 9)))
    spots = pd.DataFrame({"x": x, "y": y, "new_x": x, "new_y": y, "pixel_x": 40 * x - 50, "pixel_y": 40 * y - 170})
    names = [f"{a}x{b}" for a, b in zip(x, y, strict=True)]
    counts = pd.DataFrame(rng.poisson(3.0, (len(names), 5)), names, ["ERBB2", "GAPDH", "GNAS", "ACTB", "FASN"])
    data = root / "data"
    files = Files(
        data / "ST-cnts" / f"{name}.tsv.gz",
        data / "ST-spotfiles" / f"{name}_selection.tsv",
        data / "ST-imgs" / name[0] / name / "scan.jpg",
        counts,
        spots.assign(selected=1),
    )
    for path in (files.counts_file, files.spots_file, files.image):
        path.parent.mkdir(parents=True, exist_ok=True)
    files.write()
    Image.fromarray(rng.integers(100, 255, (220, 300, 3), dtype=np.uint8)).save(files.image)
    return files


@pytest.fixture
def repository(tmp_path) -> Files:
    """Three sections A1, A2, A3 under ``her2st``; the last is there to be spoilt."""
    return [st_section(tmp_path / "her2st", name, seed) for seed, name in enumerate(("A1", "A2", "A3"))][-1]


def cut(path: Path) -> None:
    """Leave half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
