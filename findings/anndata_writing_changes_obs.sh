#!/usr/bin/env bash
# Writing an AnnData to a file changes the object that is in memory.
#
# Packages: anndata 0.12.19, pandas 2.3.3.
# Guess: write_h5ad leaves the object as it is.
# What happens: each column of text in obs and var in which a value repeats becomes
# categorical in the object itself. A name that worked before the write now raises, and
# joined columns are something else: a sum of two texts fails, and groupby has empty
# groups for the values that a subset lost.
# Why it matters: a save in the middle of a script, or a line that is left out, decides
# whether the next lines run.
#
# Output seen:
#   anndata 0.12.19 pandas 2.3.3
#   guess: obs['patient'] holds text before and after the write
#   seen:  before write_h5ad: dtype object, a new patient is accepted
#   seen:  after write_h5ad: dtype category, a new patient is TypeError
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
import pathlib
import tempfile

import anndata as ad
import numpy as np
import pandas as pd

adata = ad.AnnData(np.zeros((4, 1)), obs=pd.DataFrame({"patient": ["p1", "p2", "p1", "p2"]}, index=list("abcd")))
print("anndata", ad.__version__, "pandas", pd.__version__)
print("guess: obs['patient'] holds text before and after the write")
outcomes = []
with tempfile.TemporaryDirectory() as folder:
    for moment in ("before", "after"):
        copy = adata.copy()
        try:
            copy.obs.loc["a", "patient"] = "p3"
            new = "accepted"
        except TypeError as error:
            new = type(error).__name__
        outcomes.append((str(adata.obs["patient"].dtype), new))
        print(f"seen:  {moment} write_h5ad: dtype {outcomes[-1][0]}, a new patient is {new}")
        adata.write_h5ad(pathlib.Path(folder) / "section.h5ad")
assert outcomes == [("object", "accepted"), ("category", "TypeError")]
PY
