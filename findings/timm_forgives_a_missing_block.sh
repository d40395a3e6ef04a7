#!/usr/bin/env bash
# timm takes a file without a block as whole, once the classes are left out.
#
# Packages: timm 1.0.31, torch 2.15.0, torchvision 0.29.2, safetensors 0.8.0.
# Guess: pretrained=True needs a weight for each parameter of the model. num_classes=0
# leaves out the head and changes nothing else.
# What happens: where num_classes differs from the config of the weights, all of them
# are loaded non-strictly, not the head alone. A file that lacks a whole block loads,
# the block is random, and the features differ with every load. The missing names are
# logged at INFO, which nobody sees. The same file is refused where its config has no
# classes.
# Why it matters: num_classes=0 is how an encoder is made from a classifier. A file that
# was saved or converted without some of its layers gives features that are noise.
#
# Output seen:
#   timm 1.0.31 torch 2.15.0
#   guess: a file without its last block is refused
#   seen:  config of 10 classes, whole file: features equal: True
#   seen:  config of 10 classes, without its last block: loaded twice, features wrong by 85% and 86%
#   seen:  config of 0 classes, without its last block: refused: True
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

MODEL = "vit_tiny_patch16_224"
torch.manual_seed(0)
size = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 4, "num_heads": 4}
trained = timm.create_model(MODEL, num_classes=10, **size).eval()
image = torch.rand(1, 3, 32, 32)


def loaded(classes, without):
    """Features of the image after one load, of a file whose config has so many classes."""
    config = {"num_classes": classes, "input_size": [3, 32, 32], "first_conv": "patch_embed.proj", "classifier": "head"}
    kept = {
        name: tensor
        for name, tensor in trained.state_dict().items()
        if not (without and name.startswith(without)) and (classes or not name.startswith("head."))
    }
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        described = {"architecture": MODEL, "num_classes": classes, "model_args": size, "pretrained_cfg": config}
        (pathlib.Path(folder) / "config.json").write_text(json.dumps(described))
        save_file(kept, pathlib.Path(folder) / "model.safetensors")
        return timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()(image)


print("timm", timm.__version__, "torch", torch.__version__.split("+")[0])
print("guess: a file without its last block is refused")
with torch.no_grad():
    right = trained.forward_head(trained.forward_features(image), pre_logits=True)
whole = loaded(10, None)
errors = [float((loaded(10, "blocks.3.") - right).norm() / right.norm()) for _ in range(2)]
print(f"seen:  config of 10 classes, whole file: features equal: {torch.equal(whole, right)}")
print("seen:  config of 10 classes, without its last block: loaded twice, features wrong by", end=" ")
print(f"{errors[0]:.0%} and {errors[1]:.0%}")
try:
    loaded(0, "blocks.3.")
    refused = False
except RuntimeError as error:
    refused = "Missing key" in str(error)
print(f"seen:  config of 0 classes, without its last block: refused: {refused}")
assert torch.equal(whole, right)
assert min(errors) > 0.05 and errors[0] != errors[1]
assert refused
PY
