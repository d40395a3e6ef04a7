from __future__ import annotations

import hashlib

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from nh2st_graph.section import library_entry, other_sections, section_digest, spot_digests

PARTS = {"counts", "positions", "resolution", "patient"}


@pytest.fixture
def section() -> AnnData:
    rng = np.random.default_rng(0)
    adata = AnnData(
        sparse.csr_matrix(rng.poisson(1.0, (6, 4)).astype(np.float32)),
        obs=pd.DataFrame(
            {"section": pd.Categorical(["A"] * 6), "patient": pd.Categorical(["P"] * 6)},
            index=[f"spot{i}" for i in range(6)],
        ),
        var=pd.DataFrame(index=list("WXYZ")),
        obsm={"spatial": rng.uniform(0, 99, (6, 2))},
    )
    image = (np.zeros((2, 2, 3), np.uint8), 0.1)
    adata.uns["spatial"] = {"A": library_entry("a.png", 0.5, 10.0, hires=image)}
    return adata


def test_order_and_storage_do_not_matter(section):
    digest, rng = section_digest(section), np.random.default_rng(1)
    shuffled = section[rng.permutation(6)][:, rng.permutation(4)].copy()
    dense = section.copy()
    dense.X = section.X.toarray().astype(np.int64)
    stored = section.copy()
    stored.X[0, 0] = 0  # an explicit zero, or not
    other = section.copy()
    other.X = sparse.csr_matrix(stored.X.toarray())
    assert digest.keys() == PARTS
    assert section_digest(shuffled) == section_digest(dense) == digest
    assert section_digest(stored) == section_digest(other)


def test_counts_are_hashed_by_blocks_as_at_once(section, monkeypatch, tmp_path):
    """Whatever the block: digests of earlier versions stay."""
    spots, genes = np.argsort(section.obs_names), np.argsort(section.var_names)
    counts = section.X[spots][:, genes]
    counts.sort_indices()
    content = "\n".join([*section.obs_names[spots], "", *section.var_names[genes]]).encode()
    arrays = (counts.data.astype(np.float64), counts.indices.astype(np.int64), counts.indptr.astype(np.int64))
    expected = hashlib.sha256(content + b"".join(each.tobytes() for each in arrays)).hexdigest()[:16]
    assert section_digest(section)["counts"] == expected
    monkeypatch.setattr("nh2st_graph.section._digest._BLOCK", 4)
    shuffled = section[np.random.default_rng(2).permutation(6)].copy()
    for dense in (False, True):
        shuffled.X = shuffled.X.toarray() if dense else shuffled.X
        shuffled.write_h5ad(tmp_path / f"{dense}.h5ad")
        on_disk = ad.read_h5ad(tmp_path / f"{dense}.h5ad", backed="r")
        assert section_digest(shuffled)["counts"] == section_digest(on_disk)["counts"] == expected


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda a: a.X.data.__setitem__(0, 9.0), {"counts"}),
        (lambda a: a.obsm["spatial"].__setitem__((0, 1), 3.0), {"positions"}),
        (lambda a: a.obsm.__setitem__("spatial", a.obsm["spatial"][::-1].copy()), {"positions"}),
        (lambda a: a.uns["spatial"]["A"]["metadata"].__setitem__("microns_per_pixel", 0.25), {"resolution"}),
        (lambda a: a.obs.__setitem__("patient", pd.Categorical(["Q"] * 6)), {"patient"}),
        (lambda a: setattr(a, "var_names", list("WXYV")), {"counts"}),
        (lambda a: setattr(a, "obs_names", [f"s{i}" for i in range(6)]), {"counts", "positions"}),
    ],
)
def test_each_part_has_its_own_digest(section, change, parts):
    before = section_digest(section)
    change(section)
    after = section_digest(section)
    assert {name for name in PARTS if before[name] != after[name]} == parts
    (said,) = other_sections({"A": before, "B": before}, {"A": after, "C": before}, "section {!r} has other {}")
    assert said.startswith("section 'A' has other ")
    assert all(part in said for part in parts)


def test_spots_are_compared_one_by_one(section):
    before = spot_digests(section)
    assert len(set(before)) == 6
    assert set(spot_digests(section[[4, 1]].copy())) == {before[4], before[1]}
    section.obsm["spatial"][2] += 0.5
    assert (spot_digests(section) != before).tolist() == [False, False, True, False, False, False]


def test_a_section_without_genes_and_image_has_a_digest(section):
    bare = AnnData(obs=section.obs, obsm={"spatial": section.obsm["spatial"]})
    assert section_digest(bare)["counts"] == "none"
    assert section_digest(bare)["resolution"] == "unknown"
