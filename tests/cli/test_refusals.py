"""What arguments alone rule out is refused before anything heavy is loaded, and says what was meant."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tifffile import imwrite

ROOT = Path(__file__).resolve().parents[2]
MINI, BENCHMARK = (str(ROOT / "configs" / name) for name in ("her2st_mini.yaml", "benchmarks/her2st_mini.yaml"))
ABLATION = str(ROOT / "configs" / "ablations" / "components.yaml")
ROOT_SET = ["--set", "data.root=there"]

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
]

CODE = """
import contextlib, io, json, sys
sys.path.insert(0, ROOT)
from nh2st_graph.cli import main
said = []
for command in json.loads(sys.stdin.read()):
    with contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main(command)
        except SystemExit as end:
            said.append([end.code, err.getvalue()])
heavy = [name for name in ("torch", "squidpy", "scanpy", "anndata", "pandas", "sklearn") if name in sys.modules]
print(json.dumps([said, heavy]))
"""


def test_before_anything_heavy_is_loaded(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "s.h5ad").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.json").write_text("{}")
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
        input=json.dumps([command for command, _ in CASES]),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    said, heavy = json.loads(done.stdout)
    for (command, names), (code, message) in zip(CASES, said, strict=True):
        assert code == 2, command
        (line,) = message.splitlines()
        assert line.startswith("error: "), command
        assert [name for name in names if name not in line] == [], (command, line)
    assert heavy == []
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("method", "encoder"), [("histogene", "pixels:112"), ("triplex", "timm-map:resnet18")])
def test_a_file_may_leave_the_encoder_to_the_command_line(tmp_path, method, encoder):
    from nh2st_graph.config import load_config

    (tmp_path / "c.yaml").write_text(f"model: {{name: {method}}}\n")
    assert load_config(tmp_path / "c.yaml", [f"features.encoder={encoder}"]).model.name == method
