#!/usr/bin/env bash
# Setting X of a subset of an AnnData overwrites X of the whole.
#
# Packages: anndata 0.12.19, numpy 2.4.6.
# Guess: a subset is a view that becomes a copy as soon as it is changed. This is what
# happens to obs, obsm and layers.
# What happens: test.X = values writes the values into the object that test was taken
# from, and test stays a view. test.layers["x"] = values and test.X[...] = values make a
# copy. anndata warns, and a later version will copy here too.
# Why it matters: test = section[mask]; test.X = prediction replaces the truth by the
# prediction, and a comparison of the two is perfect.
#
# Output seen:
#   anndata 0.12.19
#   guess: the truth in the section stays, whatever is written to a subset
#   seen:  test.X = prediction: truth changed True, correlation of truth and random prediction 1.00
#   seen:  test.layers['counts'] = prediction: truth changed False
#
# Exit status: 0 while the behaviour stands, otherwise not 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=(anndata==0.12.19 numpy==2.4.6 pandas==2.3.3 scipy==1.17.1)
if command -v uv >/dev/null; then
  uv venv -q --python python3 "$work/venv"
  uv pip install -q --python "$work/venv/bin/python" "${packages[@]}"
else
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install -q "${packages[@]}"
fi
"$work/venv/bin/python" -W ignore - <<'PY'
import anndata as ad
import numpy as np

rng = np.random.default_rng(0)


def section():
    adata = ad.AnnData(rng.poisson(3.0, size=(100, 5)).astype("float32"))
    adata.layers["counts"] = adata.X.copy()
    return adata


print("anndata", ad.__version__)
print("guess: the truth in the section stays, whatever is written to a subset")
truth = section()
kept = truth.X.copy()
test = truth[50:]
test.X = rng.random((50, 5)).astype("float32")
overwritten = not np.array_equal(truth.X, kept)
r = np.corrcoef(truth[50:].X.ravel(), test.X.ravel())[0, 1]
print(f"seen:  test.X = prediction: truth changed {overwritten}, correlation of truth and random prediction {r:.2f}")
other = section()
kept = other.layers["counts"].copy()
test = other[50:]
test.layers["counts"] = rng.random((50, 5)).astype("float32")
layer = not np.array_equal(other.layers["counts"], kept)
print(f"seen:  test.layers['counts'] = prediction: truth changed {layer}")
assert overwritten and r > 0.999 and not layer
PY
