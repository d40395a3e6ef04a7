#!/usr/bin/env bash
# dask remembers whether Python collected garbage when dask was imported, and goes back to that at each slice.
#
# Packages: dask 2026.8.0, numpy 2.4.6.
# Guess: an array is sliced while the garbage collector rests, and afterwards the collector is as it was before the slice.
# What happens: the state is read once, where the decorator is made, which is the import of dask.array. A program that
# rests the collector while it imports its libraries, as quick command lines do, has it off for good after the first
# slice. One that switches it off later, as training loops do, has it on again.
# Why it matters: images of SpatialData are dask arrays, and each crop is a slice. Circles of objects that hold sections
# are then never freed, and memory grows without a word.
#
# Output seen:
#   dask 2026.8.0
#   guess: the collector is as it was before the slice
#   seen:  imported while it rests, on before the slice: off after it
#   seen:  imported while it is on, off before the slice: on after it
#
# Exit status: 0 while the behaviour stands, otherwise not 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=(dask==2026.8.0 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv venv -q --python python3 "$work/venv"
  uv pip install -q --python "$work/venv/bin/python" "${packages[@]}"
else
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install -q "${packages[@]}"
fi
cat >"$work/slice.py" <<'PY'
import gc
import sys

at_import, at_slice = sys.argv[1:]


def switch(state):
    gc.enable() if state == "on" else gc.disable()


switch(at_import)
import dask
import dask.array as da

switch(at_slice)
image = da.zeros((64, 64), chunks=16)
before = "on" if gc.isenabled() else "off"
crop = image[8:40, 8:40]
after = "on" if gc.isenabled() else "off"
if at_import == "off":
    print(f"dask {dask.__version__}")
    print("guess: the collector is as it was before the slice")
rests = "rests" if at_import == "off" else "is on"
print(f"seen:  imported while it {rests}, {before} before the slice: {after} after it")
sys.exit(before == after)
PY
"$work/venv/bin/python" "$work/slice.py" off on
"$work/venv/bin/python" "$work/slice.py" on off
