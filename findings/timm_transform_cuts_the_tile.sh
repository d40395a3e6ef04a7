#!/usr/bin/env bash
# timm's transform drops the border of a tile that already has the encoder's size.
#
# Packages: timm 1.0.31, torch 2.15.0, torchvision 0.29.2, pillow 13.0.0.
# Guess: a tile of 224 px goes into an encoder of 224 px as it is. All encoders of 224 px
# see the same tissue.
# What happens: the transform of the model's own configuration resizes the tile to 224 /
# crop_pct and cuts the middle out. With 0.9 a tile of 112 um shows 101 um to the
# encoder, enlarged by a tenth. crop_pct belongs to the weights, so two sets of weights
# of one architecture see two areas.
# Why it matters: resolution and field of view of a patch are chosen with care and then
# changed, in another way for each encoder in a comparison.
#
# Output seen:
#   timm 1.0.31
#   guess: 224 columns of 224, 112 um of 112 um, for each of them
#   seen:  vit_small_patch16_224.dino: crop_pct 0.9, 202 columns, 101 um of 112 um
#   seen:  vit_small_patch16_224.augreg_in21k: crop_pct 0.9, 202 columns, 101 um of 112 um
#   seen:  resnet50.a1_in1k: crop_pct 0.95, 213 columns, 107 um of 112 um
#   seen:  resnet50.tv_in1k: crop_pct 0.875, 196 columns, 98 um of 112 um
#
# Exit status: 0 while the behaviour stands, otherwise not 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=(timm==1.0.31 torch==2.15.0 torchvision==0.29.2 pillow==13.0.0 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv venv -q --python python3 "$work/venv"
  uv pip install -q --python "$work/venv/bin/python" "${packages[@]}"
else
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install -q "${packages[@]}"
fi
"$work/venv/bin/python" -W ignore - <<'PY'
import numpy as np
import timm
from PIL import Image
from timm.data import create_transform, resolve_data_config

# The grey of a pixel is its column.
tile = Image.fromarray(np.tile(np.arange(224, dtype="uint8"), (224, 1))).convert("RGB")
print("timm", timm.__version__)
print("guess: 224 columns of 224, 112 um of 112 um, for each of them")
seen = {}
for name in ("vit_small_patch16_224.dino", "vit_small_patch16_224.augreg_in21k", "resnet50.a1_in1k", "resnet50.tv_in1k"):
    config = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    pixels = create_transform(**config)(tile)
    assert pixels.shape == (3, 224, 224)
    grey = (pixels[0] * config["std"][0] + config["mean"][0]) * 255
    columns = float(grey.max() - grey.min()) + 1
    seen[name] = columns
    print(f"seen:  {name}: crop_pct {config['crop_pct']}, {columns:.0f} columns, {columns / 2:.0f} um of 112 um")
assert min(seen.values()) < 205
assert len({round(columns / 5) for columns in seen.values()}) > 1
PY
