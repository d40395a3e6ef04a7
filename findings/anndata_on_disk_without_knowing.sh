#!/usr/bin/env bash
# An AnnData around the X of a backed file stays on disk, and says that it is in memory.
#
# Packages: anndata 0.12.19, numpy 2.4.6, scipy 1.17.1.
# Guess: AnnData(X=backed.X, obs=..., var=...) reads the matrix, as for any array; or it is
# backed itself, and .isbacked says so.
# What happens: it keeps the dataset of the open file, and .isbacked is False. Slicing,
# to_memory() and writing work. copy() and X.sum() raise AttributeError, and concat()
# raises ValueError about zero-dimensional arrays.
# Why it matters: code that asks .isbacked before it copies or sums is told to go on, and
# its user reads an error that names neither the file nor the matrix.
#
# Output seen:
#   anndata 0.12.19
#   guess: X is in memory, or isbacked is True
#   seen:  isbacked=False, X is a _CSRDataset
#   seen:  copy(): AttributeError
#   seen:  X.sum(): AttributeError
#   seen:  concat(): ValueError: zero-dimensional arrays cannot be concatenated
#   seen:  a slice and to_memory() work
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
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import anndata as ad
import scipy.sparse as sp

ad.AnnData(sp.random(20, 5, 0.5, format="csr", random_state=0)).write_h5ad("counts.h5ad")
file = ad.read_h5ad("counts.h5ad", backed="r")
adata = ad.AnnData(X=file.X, obs=file.obs, var=file.var)


def raised(work):
    try:
        work()
    except Exception as error:
        return error
    return None


print("anndata", ad.__version__)
print("guess: X is in memory, or isbacked is True")
print(f"seen:  isbacked={adata.isbacked}, X is a {type(adata.X).__name__}")
copied, summed, joined = raised(adata.copy), raised(lambda: adata.X.sum()), raised(lambda: ad.concat([adata, adata]))
print(f"seen:  copy(): {type(copied).__name__}")
print(f"seen:  X.sum(): {type(summed).__name__}")
print(f"seen:  concat(): {type(joined).__name__}: {joined}")
assert adata[:3].X.shape == (3, 5) and adata.to_memory().X.sum() > 0
print("seen:  a slice and to_memory() work")
assert not adata.isbacked and not sp.issparse(adata.X)
assert isinstance(copied, AttributeError) and isinstance(summed, AttributeError) and isinstance(joined, ValueError)
PY
