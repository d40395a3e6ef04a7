"""The demo: two runs on tissue whose truth is known, and who found which genes."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from nh2st_graph.cli import main
from nh2st_graph.config import builtin_config
from nh2st_graph.tl import load

#: Everything small; the tissue, the split and the rest are the demo's own.
SMALL = [
    "data.synthetic.n_rows=6",
    "data.synthetic.n_cols=6",
    "data.synthetic.n_own=4",
    "data.synthetic.n_neighbour=5",
    "data.synthetic.n_interaction=4",
    "data.synthetic.n_noise=3",
    "features.encoder=squidpy:summary",
    "train.max_epochs=1",
    "train.folds=2",
    "train.device=cpu",
    "train.progress=false",
]
RUNS = ("full", "without_neighbours", "mean_of_neighbours")
KINDS = ["own", "neighbour", "interaction", "noise"]


def demo(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main(["demo", *map(str, arguments)])
    return int(end.value.code or 0)


@pytest.mark.usefixtures("without_figures")
def test_it_ends_with_the_table_and_the_paths_of_what_it_wrote(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    out = tmp_path / "demo"
    assert demo("--out", out, *(part for change in SMALL for part in ("--set", change))) == 0
    said, err = capsys.readouterr()
    assert not [line for line in err.splitlines() if "correction" not in line and "predicted as of" not in line]

    table = pd.read_csv(out / "by_kind.csv", index_col=0)
    assert list(table.index) == KINDS
    assert list(table.columns) == [
        "ridge",
        "ridge with neighbours",
        "without neighbours",
        "mean of neighbours",
        "NH2ST-Graph",
        "gained",
    ]
    assert table.notna().all(axis=None)
    assert table.abs().le(2).all(axis=None)
    gained = table["NH2ST-Graph"] - table["without neighbours"]
    assert table["gained"].to_numpy() == pytest.approx(gained.to_numpy(), abs=2e-4)

    assert load(out / "full").config.model.neighbours
    assert not load(out / "without_neighbours").config.model.neighbours
    assert load(out / "mean_of_neighbours").config.model.operator == "sage"
    per_gene = pd.read_csv(out / "full" / "metrics_per_gene.csv")
    for kind, start, n in zip(KINDS, ("OWN", "NBR", "INT", "NOISE"), (4, 5, 4, 3), strict=True):
        of_kind = per_gene[per_gene["gene"].str.startswith(start)]
        assert len(of_kind) == n
        assert table.loc[kind, "NH2ST-Graph"] == pytest.approx(of_kind["pcc"].mean(), abs=1e-4)
        assert table.loc[kind, "ridge"] == pytest.approx(of_kind["pcc_ridge"].mean(), abs=1e-4)
        neighbours = of_kind["pcc_ridge_neighbours"].mean()
        assert table.loc[kind, "ridge with neighbours"] == pytest.approx(neighbours, abs=1e-4)
    protocols = [json.loads((out / run / "metrics.json").read_text())["protocol"] for run in RUNS]
    assert [protocol["test"] for protocol in protocols] == [["S4"]] * 3

    for kind in (
        "the spot's own image",
        "the mean of the neighbours' images",
        "the neighbour with the most nuclei",
        "nothing",
    ):
        assert kind in said.partition("of genes that follow")[2]
    written = said.splitlines()[said.splitlines().index("Written:") + 1 :]
    paths = [Path(line.strip()) for line in written]
    assert out / "by_kind.csv" in paths
    assert out / "full" / "predictions" in paths
    assert all(path.exists() for path in paths)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["data.test=[]"], "data.test"),
        (["data.format=h5ad"], "use 'train' for your own sections"),
        (["data.test=[S9]"], "data.test: there is no section 'S9'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_it_cannot_show_is_refused_and_leaves_nothing(tmp_path, capsys, changes, says):
    overrides = [part for change in [*SMALL, *changes] for part in ("--set", change)]
    assert demo("--out", tmp_path / "demo", *overrides) == 2
    assert says in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_its_configuration_is_in_the_package_and_shows_what_it_says():
    config = builtin_config("demo")
    assert config.data.format == "synthetic"
    assert config.data.test
    assert config.model.neighbours
    assert config.graph.mode != "none"
    assert config.data.panel == f"hvg:{sum(getattr(config.data.synthetic, f'n_{kind}') for kind in KINDS)}"
