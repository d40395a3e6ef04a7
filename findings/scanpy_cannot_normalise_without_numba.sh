#!/usr/bin/env bash
# With numba's compiler off, scanpy cannot normalise a sparse matrix of counts.
#
# Packages: scanpy 1.11.5, numba 0.68.1.
# Guess: NUMBA_DISABLE_JIT=1 runs the same Python without compiling it, slower and with the
# same results. It is numba's own switch for debuggers and for coverage.
# What happens: sc.pp.normalize_total raises UnboundLocalError on a CSR matrix. The compiled
# function gives back a variable that only one of its branches sets. Compiled, it is unset
# memory that nobody reads; as Python, it does not exist.
# Why it matters: packages that build on scanpy measure the coverage of their tests, or debug
# them, with this switch, and the first step of every analysis fails.
#
# Output seen:
#   scanpy 1.11.5 numba 0.68.1
#   guess: the same normalised counts twice
#   seen:  compiler on: [[1.0, 3.0, 0.0], [2.0, 0.0, 2.0]]
#   seen:  compiler off: UnboundLocalError: cannot access local variable 'counts_per_cols'
#          where it is not associated with a value
#
# Exit status: 0 while the behaviour stands, otherwise not 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=(scanpy==1.11.5 numba==0.68.1 anndata==0.12.19 numpy==2.4.6 pandas==2.3.3 scipy==1.17.1)
if command -v uv >/dev/null; then
  uv venv -q --python python3 "$work/venv"
  uv pip install -q --python "$work/venv/bin/python" "${packages[@]}"
else
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install -q "${packages[@]}"
fi
cat > "$work/normalise.py" <<'PY'
import os

import numpy as np
import scanpy as sc
from anndata import AnnData
from scipy import sparse

counts = sparse.csr_matrix(np.array([[1, 3, 0], [2, 0, 2]], dtype=np.float32))
adata = AnnData(counts)
what = "off" if os.environ.get("NUMBA_DISABLE_JIT") else "on"
try:
    sc.pp.normalize_total(adata, target_sum=4)
    print(f"seen:  compiler {what}:", adata.X.toarray().tolist())
except UnboundLocalError as error:
    print(f"seen:  compiler {what}: UnboundLocalError: {error}")
PY
python=$work/venv/bin/python
"$python" -W ignore -c "import numba, scanpy; print('scanpy', scanpy.__version__, 'numba', numba.__version__)"
echo "guess: the same normalised counts twice"
"$python" -W ignore "$work/normalise.py" | tee "$work/out"
NUMBA_DISABLE_JIT=1 "$python" -W ignore "$work/normalise.py" | tee -a "$work/out"
grep -q "compiler on: \[\[1.0, 3.0, 0.0\], \[2.0, 0.0, 2.0\]\]" "$work/out"
grep -q "compiler off: UnboundLocalError" "$work/out"
