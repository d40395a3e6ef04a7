#!/usr/bin/env bash
# Pillow cuts 16 bits at 255 in a grey image, and takes the upper 8 bits in a coloured one.
#
# Packages: pillow 13.0.0, imagecodecs 2025.11.11, tifffile 2026.3.3, numpy 2.4.6.
# Guess: 16 bits become 8 bits by one rule, so that a half is a half.
# What happens: a coloured image of 16 bits is opened as RGB with each value divided by
# 256. A grey one is opened as I;16, and convert("RGB") or convert("L") then sets all
# above 255 to 255. The same scene is right in colour and white in grey. PNG and TIFF
# do the same.
# Why it matters: microscopes write 16 bits. A grey channel beside the stained image, or
# a grey copy of it, becomes a white sheet without an error.
#
# Output seen:
#   pillow 13.0.0
#   guess: [0, 200, 1000, 32768, 65535] becomes [0, 0, 3, 128, 255] in each of them
#   seen:  grey png: mode I;16, as RGB [0, 200, 255, 255, 255]
#   seen:  grey tif: mode I;16, as RGB [0, 200, 255, 255, 255]
#   seen:  colour png: mode RGB, as RGB [0, 0, 3, 128, 255]
#   seen:  colour tif: mode RGB, as RGB [0, 0, 3, 128, 255]
#
# Exit status: 0 while the behaviour stands, otherwise not 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=(pillow==13.0.0 imagecodecs==2025.11.11 tifffile==2026.3.3 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv venv -q --python python3 "$work/venv"
  uv pip install -q --python "$work/venv/bin/python" "${packages[@]}"
else
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install -q "${packages[@]}"
fi
"$work/venv/bin/python" -W ignore - <<'PY'
import pathlib
import tempfile

import imagecodecs
import numpy as np
import PIL
import tifffile
from PIL import Image

grey = np.array([[0, 200, 1000, 32768, 65535]] * 4, dtype="uint16")
colour = np.ascontiguousarray(np.repeat(grey[..., None], 3, axis=2))
print("pillow", PIL.__version__)
print("guess: [0, 200, 1000, 32768, 65535] becomes [0, 0, 3, 128, 255] in each of them")
found = {}
with tempfile.TemporaryDirectory() as folder:
    for name, array in (("grey", grey), ("colour", colour)):
        png, tiff = (pathlib.Path(folder) / f"{name}.{end}" for end in ("png", "tif"))
        png.write_bytes(imagecodecs.png_encode(array))
        tifffile.imwrite(tiff, array, photometric="rgb" if name == "colour" else "minisblack")
        for file in (png, tiff):
            with Image.open(file) as image:
                mode, values = image.mode, np.asarray(image.convert("RGB"))[0, :, 0].tolist()
            found[name, file.suffix] = values
            print(f"seen:  {name} {file.suffix[1:]}: mode {mode}, as RGB {values}")
assert found["grey", ".png"] == found["grey", ".tif"] == [0, 200, 255, 255, 255]
assert found["colour", ".png"] == found["colour", ".tif"] == [0, 0, 3, 128, 255]
PY
