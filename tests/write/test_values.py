"""What all writers for other tools share: the choice of genes, and where they write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from anndata import AnnData

import nh2st_graph as ng
from nh2st_graph import DataError, RunError

WRITERS = [ng.write_csv, ng.write_loupe, ng.write_qupath, ng.write_seurat]
all_writers = pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)


def written(path: Path) -> str:
    """All that was written, but for what is packed."""
    files = [path] if path.is_file() else sorted(path.rglob("*.csv"))
    return "".join(file.read_text() for file in files)


@all_writers
def test_reliable_genes_alone(write: Callable[..., None], prediction: AnnData, tmp_path: Path):
    first, second, *_ = prediction.var_names
    write(prediction, tmp_path / "new" / "S3", genes="reliable")
    assert first in written(tmp_path / "new" / "S3")
    assert second not in written(tmp_path / "new" / "S3")


@all_writers
def test_genes_that_are_none(write: Callable[..., None], prediction: AnnData, tmp_path: Path):
    for genes, says in (([], "genes is empty"), (["nope"], "'nope' is not in the prediction"), (3, "no list of genes")):
        with pytest.raises(DataError, match=says):
            write(prediction, tmp_path / "S3", genes=genes)
    prediction.var["reliable"] = False
    with pytest.raises(DataError, match="genes='reliable': no gene is reliable"):
        write(prediction, tmp_path / "S3", genes="reliable")
    del prediction.var["reliable"]
    with pytest.raises(DataError, match="does not say which genes are reliable"):
        write(prediction, tmp_path / "S3", genes="reliable")
    assert not list(tmp_path.iterdir())


@all_writers
def test_what_is_there_of_the_same_kind_is_replaced(write: Callable[..., None], prediction: AnnData, tmp_path: Path):
    write(prediction, tmp_path / "S3")
    before = written(tmp_path / "S3")
    prediction.obs["domain"] = pd.Categorical(["another"] * prediction.n_obs)
    write(prediction, tmp_path / "S3", **({"class_by": "domain"} if write is ng.write_qupath else {}))
    assert "another" in written(tmp_path / "S3")
    assert written(tmp_path / "S3") != before
    assert [path.name for path in tmp_path.iterdir()] == ["S3"]


@all_writers
def test_what_is_there_of_another_kind_is_kept(write: Callable[..., None], prediction: AnnData, tmp_path: Path):
    (tmp_path / "folder" / "within").mkdir(parents=True)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match=r"folder is a folder|folder exists, and is no folder that"):
        write(prediction, tmp_path / "folder")
    with pytest.raises(RunError, match=r"file/S3 cannot be written: .*file is a file"):
        write(prediction, tmp_path / "file" / "S3")
    assert (tmp_path / "file").read_text() == "mine"
    assert (tmp_path / "folder" / "within").is_dir()
