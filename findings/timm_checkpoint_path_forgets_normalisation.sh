#!/usr/bin/env bash
# timm's checkpoint_path loads weights without the normalisation that is beside them.
#
# Packages: timm 1.0.31, torch 2.15.0, torchvision 0.29.2, safetensors 0.8.0.
# Guess: weights that are loaded from a folder bring the mean and std of their
# config.json, as the same folder does by the name "local-dir:".
# What happens: checkpoint_path reads the tensors alone. resolve_model_data_config then
# answers with the numbers of the architecture's default weights. All tensors are
# equal, no warning comes, and the same image gives other features.
# Why it matters: encoders of pathology were trained with a mean and std of their own,
# and their files are often loaded by path on a machine without a network.
#
# Output seen:
#   timm 1.0.31 torch 2.15.0
#   guess: mean [0.7, 0.55, 0.7] from both ways to load the folder
#   seen:  local-dir:: mean [0.7, 0.55, 0.7]
#   seen:  checkpoint_path: mean [0.485, 0.456, 0.406]
#   seen:  all weights equal: True; features of one image differ by 128%
#
# Exit status: 0 while the behaviour stands, otherwise not 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=(timm==1.0.31 torch==2.15.0 torchvision==0.29.2 safetensors==0.8.0 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv venv -q --python python3 "$work/venv"
  uv pip install -q --python "$work/venv/bin/python" "${packages[@]}"
else
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install -q "${packages[@]}"
fi
"$work/venv/bin/python" -W ignore - <<'PY'
import json
import pathlib
import tempfile

import timm
import torch
from safetensors.torch import save_file
from timm.data import resolve_model_data_config

own = {"mean": [0.7, 0.55, 0.7], "std": [0.21, 0.24, 0.21]}
print("timm", timm.__version__, "torch", torch.__version__.split("+")[0])
print(f"guess: mean {own['mean']} from both ways to load the folder")
image = torch.full((1, 3, 64, 64), 0.8)
means, features = {}, {}
with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    torch.manual_seed(0)
    source = timm.create_model("resnet18", num_classes=0)
    save_file(source.state_dict(), folder / "model.safetensors")
    pretrained = {"input_size": [3, 224, 224], "num_classes": 0, "first_conv": "conv1", "classifier": "fc", **own}
    (folder / "config.json").write_text(json.dumps({"architecture": "resnet18", "num_classes": 0, "pretrained_cfg": pretrained}))
    models = {
        "local-dir:": timm.create_model(f"local-dir:{folder}", pretrained=True),
        "checkpoint_path": timm.create_model("resnet18", num_classes=0, checkpoint_path=folder / "model.safetensors"),
    }
for way, model in models.items():
    config = resolve_model_data_config(model)
    means[way] = list(config["mean"])
    mean, std = (torch.tensor(config[key])[None, :, None, None] for key in ("mean", "std"))
    with torch.inference_mode():
        features[way] = model.eval()((image - mean) / std)
    print(f"seen:  {way}: mean {means[way]}")
one, other = (model.state_dict() for model in models.values())
equal = all(torch.equal(one[key], other[key]) for key in one)
change = (features["checkpoint_path"] - features["local-dir:"]).norm() / features["local-dir:"].norm()
print(f"seen:  all weights equal: {equal}; features of one image differ by {float(change):.0%}")
assert equal and means["local-dir:"] == own["mean"] and means["checkpoint_path"] == [0.485, 0.456, 0.406]
assert change > 0.05
PY
