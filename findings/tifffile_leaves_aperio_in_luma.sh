#!/usr/bin/env bash
# tifffile gives the luma and chroma of an Aperio slide for its red, green and blue.
#
# Packages: tifffile 2026.3.3, imagecodecs 2025.11.11, openslide-bin 4.0.1.2 (OpenSlide
# 4.0.1), openslide-python 1.4.7.
# Guess: a page whose tag says RGB is decoded to RGB.
# What happens: Aperio's compression 33003 is JPEG 2000 of YCbCr, under a tag that says
# RGB. OpenSlide knows this and converts. tifffile believes the tag and returns Y, Cb
# and Cr. White glass of 240 becomes (240, 128, 128), which looks like pale stain.
# Why it matters: no error and no odd shape shows it. Tissue is found on bare glass, and
# an encoder sees colours that it never saw.
#
# Output seen:
#   tifffile 2026.3.3 openslide 4.0.1
#   guess: glass (240, 240, 240) and tissue (200, 120, 180) from both, up to rounding
#   seen:  OpenSlide: glass [240, 240, 240], tissue [200, 120, 181]
#   seen:  tifffile: glass [240, 128, 128], tissue [151, 145, 163]
#
# Exit status: 0 while the behaviour stands, otherwise not 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=(
  tifffile==2026.3.3 imagecodecs==2025.11.11
  openslide-python==1.4.7 openslide-bin==4.0.1.2 numpy==2.4.6
)
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
import openslide
import tifffile

rgb = np.full((256, 256, 3), 240, dtype="uint8")
rgb[128:] = (200, 120, 180)
luma = rgb @ np.array([0.299, 0.587, 0.114])
chroma = [128 + (rgb[..., 2] - luma) / 1.772, 128 + (rgb[..., 0] - luma) / 1.402]
ycbcr = np.stack([luma, *chroma], axis=-1).round().astype("uint8")

print("tifffile", tifffile.__version__, "openslide", openslide.__library_version__)
print("guess: glass (240, 240, 240) and tissue (200, 120, 180) from both, up to rounding")
with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder) / "slide.svs"
    tifffile.imwrite(
        file,
        iter([imagecodecs.jpeg2k_encode(ycbcr, level=0, codecformat="j2k")]),
        shape=rgb.shape,
        dtype=rgb.dtype,
        tile=(256, 256),
        compression=33003,
        photometric="rgb",
        description="Aperio Image Library v11.2.1\r\n256x256 (256x256) J2K/YUV16 Q=70|AppMag = 20|MPP = 0.5",
        metadata=None,
    )
    with openslide.OpenSlide(file) as slide:
        converted = np.asarray(slide.read_region((0, 0), 0, (256, 256)).convert("RGB"))
    read = tifffile.imread(file)
for name, image in (("OpenSlide", converted), ("tifffile", read)):
    print(f"seen:  {name}: glass {image[0, 0].tolist()}, tissue {image[200, 0].tolist()}")
assert abs(converted.astype(int) - rgb).max() <= 2
assert abs(read.astype(int) - ycbcr).max() <= 2
PY
