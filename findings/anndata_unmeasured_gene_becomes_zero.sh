#!/usr/bin/env bash
# A gene that a section did not measure becomes 0 or NaN, by how the numbers are stored.
#
# Packages: anndata 0.12.19, scipy 1.17.1, numpy 2.4.6.
# Guess: concat(join="outer") marks a gene that one section lacks in one way, as missing.
# What happens: the filling is NaN for dense tables and 0 for sparse ones. One sparse
# section among dense ones makes all of the result sparse and all of the missing 0. A
# layer can say 0 where X says NaN.
# Why it matters: 0 counts is a measurement. A model that learns from panels of several
# machines is taught that the gene is off, and nothing shows it later.
#
# Output seen:
#   anndata 0.12.19
#   guess: one mark for a gene that a section did not measure
#   seen:  dense and dense: gene C of section one is nan, in a ndarray
#   seen:  sparse and sparse: gene C of section one is 0.0, in a csr_matrix
#   seen:  dense and sparse: gene C of section one is 0.0, in a csr_matrix
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
import pandas as pd
from scipy import sparse


def section(genes, store):
    return ad.AnnData(store(np.ones((2, len(genes)))), var=pd.DataFrame(index=genes))


print("anndata", ad.__version__)
print("guess: one mark for a gene that a section did not measure")
found = {}
kinds = {"dense": np.asarray, "sparse": sparse.csr_matrix}
for first, second in (("dense", "dense"), ("sparse", "sparse"), ("dense", "sparse")):
    sections = {"one": section(["A", "B"], kinds[first]), "two": section(["B", "C"], kinds[second])}
    joined = ad.concat(sections, join="outer", index_unique="-")
    X = joined.X.toarray() if sparse.issparse(joined.X) else joined.X
    value = found[first, second] = float(X[0, list(joined.var_names).index("C")])
    print(f"seen:  {first} and {second}: gene C of section one is {value}, in a {type(joined.X).__name__}")
assert np.isnan(found["dense", "dense"])
assert found["sparse", "sparse"] == found["dense", "sparse"] == 0
PY
