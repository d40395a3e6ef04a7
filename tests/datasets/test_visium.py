from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image

from nh2st_graph import DataError
from nh2st_graph.datasets import visium
from nh2st_graph.section import library

NAME = "V1_Human_Heart"


@pytest.fixture
def spaceranger(tmp_path, small_visium):
    """A real section under a published name, with an image that stands for the full one."""
    folder = tmp_path / "local" / NAME
    shutil.copytree(small_visium, folder)
    size = Image.open(folder / "spatial" / "tissue_hires_image.png").size
    scale = json.loads((folder / "spatial" / "scalefactors_json.json").read_text())["tissue_hires_scalef"]
    # only its size is looked at
    Image.new("1", [round(side / scale) for side in size]).save(folder / "image.tif")
    return folder


@pytest.fixture
def host(server, spaceranger, monkeypatch):
    """A server with the section as it is published: prefixed counts, ``spatial/`` packed."""
    folder = server.folder / NAME
    folder.mkdir()
    shutil.copy(spaceranger / "filtered_feature_bc_matrix.h5", folder / f"{NAME}_filtered_feature_bc_matrix.h5")
    shutil.copy(spaceranger / "image.tif", folder / f"{NAME}_image.tif")
    with tarfile.open(folder / f"{NAME}_spatial.tar.gz", "w:gz") as archive:
        archive.add(spaceranger / "spatial", "spatial")
    published = [folder / f"{NAME}_{file}" for file in ("filtered_feature_bc_matrix.h5", "spatial.tar.gz", "image.tif")]
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in published]
    monkeypatch.setattr("nh2st_graph.datasets._visium._HOST", server.url)
    monkeypatch.setattr("nh2st_graph.datasets._visium.file_list", lambda _: {NAME: ["Heart", *digests]})
    return folder


def test_a_section_is_fetched_once(host, server, spaceranger):
    fetched = visium(NAME, progress=False)
    given = visium(NAME, folder=spaceranger.parent)
    np.testing.assert_array_equal(fetched.X.toarray(), given.X.toarray())
    np.testing.assert_array_equal(fetched.obsm["spatial"], given.obsm["spatial"])
    assert set(fetched.obs["section"]) == {NAME}
    assert set(fetched.obs["patient"]) == set(given.obs["patient"]) == {"Heart"}
    assert library(fetched).source.endswith("image.tif")
    assert len(server.asked) == 3
    visium(NAME, progress=False)
    assert len(server.asked) == 3


def test_no_network_names_the_folder(server, monkeypatch):
    monkeypatch.setattr("nh2st_graph.datasets._visium._HOST", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"no connection.*folder=DIR") as error:
        visium(NAME, progress=False)
    assert "\n" not in str(error.value)


def test_an_unknown_name_gives_the_nearest():
    with pytest.raises(DataError, match=r"no public Visium section 'V1_Human_Hart'; did you mean 'V1_Human_Heart'"):
        visium("V1_Human_Hart")


def test_sections_of_one_block_have_one_patient():
    lines = (files("nh2st_graph.datasets") / "visium.txt").read_text().splitlines()
    known = {name: words for name, *words in (line.split() for line in lines if not line.startswith("#"))}
    a, b = (known[f"V1_Breast_Cancer_Block_A_Section_{i}"] for i in (1, 2))
    assert a[0] == b[0]
    assert a[1:] != b[1:]
    # the same image is the same section, sequenced twice
    patients = {}
    for patient, *_, image in known.values():
        assert patients.setdefault(image, patient) == patient
