"""What arguments alone rule out is refused before anything heavy is loaded, and says what was meant."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from tifffile import imwrite

ROOT = Path(__file__).resolve().parents[2]
MINI, BENCHMARK = (str(ROOT / "configs" / name) for name in ("her2st_mini.yaml", "benchmarks/her2st_mini.yaml"))
ABLATION = str(ROOT / "configs" / "ablations" / "components.yaml")
ROOT_SET = ["--set", "data.root=there"]
HIST2ST = ["--set", "model.name=hist2st", "--set", "features.encoder=pixels:112"]
HALF = ["--set", "train.precision=16"]

#: Commands and what their error names.
CASES = [
    (["demo", "--out", "there"], ["there exists already", "--out"]),
    (["train", MINI, "--out", "there"], ["there exists already", "--resume"]),
    (["train", MINI, "--out", "new", "--resume"], ["no run to resume"]),
    (["train", "none.yaml", "--out", "new"], ["none.yaml", "No such file"]),
    (["train", MINI, "--set", "data.root=gone", "--out", "new"], ["gone does not exist", "data.root"]),
    (["train", MINI, "--out", "new"], ["data.root is not set"]),
    (["train", MINI, *ROOT_SET, "--set", "model.name=histogene", "--out", "new"], ["HisToGene", "pixels:112"]),
    (["train", MINI, *ROOT_SET, "--set", "model.name=ridg", "--out", "new"], ["'ridge'"]),
    (["train", MINI, *ROOT_SET, "--set", "model.widht=3", "--out", "new"], ["'model.width'"]),
    (["train", MINI, *ROOT_SET, "--set", "train.epochs=3", "--out", "new"], ["'train.max_epochs'"]),
    (["train", BENCHMARK, *ROOT_SET, "--out", "new"], ["describes a study", "nh2st-graph benchmark"]),
    (["train", ABLATION, "--out", "new"], ["describes a study", "nh2st-graph ablate"]),
    (["benchmark", MINI, *ROOT_SET, "--out", "new"], ["configuration of one run", "nh2st-graph train"]),
    (["ablate", MINI, *ROOT_SET, "--out", "new"], ["configuration of one run", "nh2st-graph train"]),
    (["benchmark", BENCHMARK, "--out", "there"], ["there exists already", "--resume"]),
    (["benchmark", "none.yaml", "--out", "new"], ["none.yaml", "No such file"]),
    (["benchmark", "unfit.yaml", "--out", "new"], ["variant 'HGGEP'", "pixels:112"]),
    (["benchmark", "unknown.yaml", "--out", "new"], ["variant 'mine'", "'ridge'"]),
    (["ablate", ABLATION, "--seeds", "x", "--out", "new"], ["--seeds 'x'", "0,1,2"]),
    (["predict", "there", "s.tif", "--out", "new"], ["no model.json there"]),
    (["predict", "run", "gone.tif", "--out", "new"], ["gone.tif does not exist"]),
    (["predict", "run", "s.tif", "--out", "there"], ["there/s.h5ad exists already", "--resume"]),
    (["predict", "run", "s.tif", "--microns-per-pixel", "10", "--out", "new"], ["0.69", "--microns-per-pixel 10"]),
    (["predict", "run", "s.tif", "--microns-per-pixel", "0", "--out", "new"], ["above 0"]),
    (["evaluate", "there"], ["no model.json there"]),
    (["info", "gone"], ["gone does not exist"]),
    (["train", "tiny.yaml", "--set", "data.panel=hvg:abc", "--out", "new"], ["data.panel=hvg:abc", "hvg:N"]),
    (["train", "tiny.yaml", "--set", "data.panel=hvg:0", "--out", "new"], ["data.panel=hvg:0", "hvg:N"]),
    (["train", "tiny.yaml", "--set", "data.panel=hvg:-3", "--out", "new"], ["data.panel=hvg:-3", "hvg:N"]),
    (["train", "tiny.yaml", "--set", "data.panel=hvg:", "--out", "new"], ["data.panel=hvg:", "hvg:N"]),
    (["train", "tiny.yaml", *HIST2ST, "--set", "model.head=3", "--out", "new"], ["'model.head'", "'model.heads'"]),
    (["train", "tiny.yaml", *HIST2ST, "--set", "model.folds=3", "--out", "new"], ["'train.folds'"]),
    (["train", "tiny.yaml", "--out", "s.tif/new"], ["s.tif is a file", "--out"]),
    (["ablate", ABLATION, "--jobs", "0", "--out", "new"], ["--jobs 0"]),
    (["benchmark", BENCHMARK, "--jobs", "-2", "--out", "new"], ["--jobs -2"]),
    (["ablate", ABLATION, "--only", "full", "--out", "new"], ["--only full", "'full model'"]),
    (["benchmark", BENCHMARK, "--only", "rigde", "--out", "new"], ["--only rigde", "ridge"]),
    (["benchmark", BENCHMARK, "--out", "s.tif/new"], ["s.tif is a file"]),
    (["benchmark", "panel.yaml", "--out", "new"], ["variant 'ridge'", "hvg:N"]),
    (["benchmark", "keys.yaml", "--out", "new"], ["variant 'Hist2ST'", "'model.heads'"]),
    (["predict", "run", "s.tif", "--min-tissue", "2", "--out", "new"], ["--min-tissue 2"]),
    (["predict", "run", "s.tif", "--min-tissue", "nan", "--out", "new"], ["--min-tissue nan"]),
    (["predict", "run", "s.tif", "--library-key", "id", "--out", "new"], ["--library-key id", "h5ad"]),
    (["predict", "run", "s.tif", "--table", "t", "--out", "new"], ["--table t", "SpatialData"]),
    (["predict", "run", "s.tif", "--cache", "s.tif", "--out", "new"], ["s.tif is a file"]),
    (["predict", "run", "s.tif", "--out", "s.tif/new"], ["s.tif is a file"]),
    (["evaluate", "run"], ["config.yaml is missing"]),
    (["evaluate", "untested"], ["data.test is empty"]),
]

#: The same, where names of sections or encoders are looked up: this loads the rooms that read them, but not torch.
NAMED = [
    (
        ["train", "tiny.yaml", "--set", "features.encoder=timm:resnet1818", "--out", "new"],
        ["'resnet1818'", "resnet18,"],
    ),
    (["train", "tiny.yaml", "--set", "features.encoder=timm-map:reset", "--out", "new"], ["'reset'"]),
    (["train", "tiny.yaml", "--set", "features.encoder=timm:resnet18@gone.pt", "--out", "new"], ["gone.pt"]),
    (["train", "stored.yaml", "--set", "features.encoder=timm:resnet18@gone.pt", "--out", "new"], ["gone.pt"]),
    (["train", "tiny.yaml", "--set", "features.cache=s.tif", "--out", "new"], ["s.tif is a file"]),
    (["train", "tiny.yaml", "--set", "data.test=[S9]", "--out", "new"], ["'S9'", "'S4'", "data.test"]),
    (["train", "tiny.yaml", "--set", "data.options={bin_um: 8}", "--out", "new"], ["data.options"]),
    (["train", "tiny.yaml", "--set", "train.device=mps", "--out", "new"], ["train.device=mps"]),
    (["train", "tiny.yaml", "--set", "train.device=cpu", *HALF, "--out", "new"], ["train.precision=16"]),
    (["demo", "--set", "train.device=mps", "--out", "new"], ["train.device=mps"]),
    (["benchmark", "encoder.yaml", "--out", "new"], ["variant 'ridge'", "'resnet1818'"]),
    (["benchmark", BENCHMARK, "--set", "train.device=mps", "--out", "new"], ["train.device=mps"]),
    (["predict", "run", "s.tif", "--pitch-um", "0", "--out", "new"], ["--pitch-um 0"]),
    (["predict", "run", "s.tif", "--spot-um", "-1", "--out", "new"], ["--spot-um -1"]),
    (["predict", "run", "s.tif", "--encoder", "tim:a", "--out", "new"], ["'timm'"]),
    (["predict", "run", "s.tif", "--encoder", "timm:resnet1818", "--out", "new"], ["'resnet1818'"]),
    (["prepare", "tiny.yaml", "--set", "features.encoder=timm:resnet1818", "--out", "new"], ["'resnet1818'"]),
    (["prepare", "tiny.yaml", "--set", "data.train=[s]", "--out", "there"], ["there/s.h5ad exists already"]),
    (["prepare", "visium", "there", "--out", "s.tif/new"], ["s.tif is a file"]),
]
if not any(Path("/dev").glob("nvidia*")):
    NAMED += [(["train", "tiny.yaml", "--set", "train.device=cuda", "--out", "new"], ["train.device=cuda", "CUDA"])]

CODE = """
import contextlib, io, json, sys
sys.path.insert(0, ROOT)
from nh2st_graph.cli import main
told = []
for commands in json.loads(sys.stdin.read()):
    said = []
    for command in commands:
        with contextlib.redirect_stderr(io.StringIO()) as err:
            try:
                main(command)
            except SystemExit as end:
                said.append([end.code, err.getvalue()])
    told.append([said, sorted(sys.modules)])
print(json.dumps(told))
"""


#: What arguments are checked without; and what names are looked up without.
HEAVY = ("torch", "timm", "squidpy", "scanpy", "anndata", "pandas", "sklearn")
HEAVIEST = ("torch", "timm", "squidpy", "scanpy")


def test_before_anything_heavy_is_loaded(tmp_path):
    """One process is given all: first arguments, then names."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "s.h5ad").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.json").write_text("{}")
    (tmp_path / "untested").mkdir()
    (tmp_path / "untested" / "model.json").write_text("{}")
    (tmp_path / "untested" / "config.yaml").write_text("data: {test: []}\n")
    (tmp_path / "tiny.yaml").write_text(
        "data: {format: synthetic, train: [S1], test: [S2]}\nfeatures: {encoder: 'squidpy:summary'}\n"
    )
    (tmp_path / "stored.yaml").write_text("data: {format: h5ad, root: stored, train: [A], test: [B]}\n")
    (tmp_path / "stored").mkdir()
    for name, encoder in (("A", "timm:resnet18@gone.pt"), ("B", "squidpy:summary")):
        with h5py.File(tmp_path / "stored" / f"{name}.h5ad", "w") as file:
            file["obsm/X_image"], file["uns/X_image/encoder"] = np.zeros((2, 3)), encoder
    for name, change in (("panel", "data.panel: 'hvg:x'"), ("encoder", "features.encoder: 'timm:resnet1818'")):
        (tmp_path / f"{name}.yaml").write_text(f"base: demo\nmethods: {{ridge: {{model.name: ridge, {change}}}}}\n")
    (tmp_path / "keys.yaml").write_text(
        "base: demo\nset: {features.encoder: 'pixels:112'}\nmethods: {Hist2ST: {model.name: hist2st, model.head: 3}}\n"
    )
    (tmp_path / "unfit.yaml").write_text("base: demo\nmethods: {HGGEP: {model.name: hggep}}\n")
    (tmp_path / "unknown.yaml").write_text("base: demo\nmethods: {mine: {model.name: ridg}}\n")
    per_cm = (1e4 / 0.69, 1e4 / 0.69)
    imwrite(
        tmp_path / "s.tif",
        np.full((64, 64, 3), 200, np.uint8),
        photometric="rgb",
        resolution=per_cm,
        resolutionunit="CENTIMETER",
    )
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-c", f"ROOT = {str(ROOT)!r}\n{CODE}"],
        input=json.dumps([[command for command, _ in cases] for cases in (CASES, NAMED)]),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    for cases, without, (said, loaded) in zip((CASES, NAMED), (HEAVY, HEAVIEST), json.loads(done.stdout), strict=True):
        for (command, names), (code, message) in zip(cases, said, strict=True):
            assert code == 2, command
            (line,) = message.splitlines()
            assert line.startswith("error: "), command
            assert [name for name in names if name not in line] == [], (command, line)
        assert not {*without} & {*loaded}
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("method", "encoder"), [("histogene", "pixels:112"), ("triplex", "timm-map:resnet18")])
def test_a_file_may_leave_the_encoder_to_the_command_line(tmp_path, method, encoder):
    from nh2st_graph.config import load_config

    (tmp_path / "c.yaml").write_text(f"model: {{name: {method}}}\n")
    assert load_config(tmp_path / "c.yaml", [f"features.encoder={encoder}"]).model.name == method
