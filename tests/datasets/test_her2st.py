from __future__ import annotations

import shutil
import subprocess
from importlib.resources import files

import numpy as np
import pytest

from nh2st_graph import DataError
from nh2st_graph.datasets import her2st


@pytest.fixture
def repository(server, shared_data, monkeypatch):
    """A server with one of the real sections, as the public repository has them."""
    data = server.folder / "almaan/her2st/85df7411b987a7dec3feff9718b869a7a82091ec" / "data"
    for path in ("ST-cnts/B4.tsv.gz", "ST-spotfiles/B4_selection.tsv"):
        (data / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(shared_data / "her2st" / "data" / path, data / path)
    shutil.copytree(shared_data / "her2st" / "data" / "ST-imgs" / "B" / "B4", data / "ST-imgs" / "B" / "B4")
    monkeypatch.setattr("nh2st_graph.datasets._her2st._HOST", server.url)
    return data


def test_sections_are_those_of_the_files_or_of_a_folder(repository, server, shared_data):
    found = her2st("B4", folder=shared_data / "her2st")
    assert (list(found), server.asked) == (["B4"], [])
    given = found["B4"]
    fetched = her2st("B4", progress=False)
    assert list(fetched) == ["B4"]
    np.testing.assert_array_equal(fetched["B4"].X.toarray(), given.X.toarray())
    np.testing.assert_array_equal(fetched["B4"].obsm["spatial"], given.obsm["spatial"])
    assert list(fetched["B4"].obs["patient"].unique()) == ["B"]
    assert len(server.asked) == 3
    her2st(["B4"], progress=False)
    assert len(server.asked) == 3


def test_another_content_is_refused(repository):
    (repository / "ST-spotfiles" / "B4_selection.tsv").write_text("x\ty\n")
    with pytest.raises(DataError, match=r"B4_selection.tsv cannot be fetched .its content differs"):
        her2st("B4", progress=False)


def test_no_network_names_the_folder(server, monkeypatch):
    monkeypatch.setattr("nh2st_graph.datasets._her2st._HOST", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"no connection.*folder=DIR") as error:
        her2st("A1", progress=False)
    assert "\n" not in str(error.value)


def test_an_unknown_section_gives_the_nearest():
    with pytest.raises(DataError, match=r"no section 'A9' in HER2ST; did you mean 'A"):
        her2st(["A1", "A9"])


def test_the_list_names_the_real_files(shared_data):
    lines = (files("nh2st_graph.datasets") / "her2st.txt").read_text(encoding="utf-8").splitlines()
    for name, file, *objects in (line.split() for line in lines if not line.startswith("#")):
        folder = shared_data / "her2st" / "data"
        image = folder / "ST-imgs" / name[0] / name / file
        if image.is_file():
            paths = [folder / "ST-cnts" / f"{name}.tsv.gz", folder / "ST-spotfiles" / f"{name}_selection.tsv", image]
            done = subprocess.run(["git", "hash-object", *paths], capture_output=True, text=True, check=True)
            assert done.stdout.split() == objects
