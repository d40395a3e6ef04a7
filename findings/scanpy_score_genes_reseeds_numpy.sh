#!/usr/bin/env bash
# scanpy's score_genes sets the seed of NumPy's global generator.
#
# Packages: scanpy 1.11.5, anndata 0.12.19, numpy 2.4.6.
# Guess: random_state=0 is the seed of the genes that score_genes draws for comparison,
# as in scikit-learn, and draws of the caller go on as they were.
# What happens: it calls np.random.seed(random_state). The draws of the caller after it
# are the same each time, whatever seed the caller set.
# Why it matters: a loop that scores a gene set and then permutes labels, or draws
# cells by np.random, repeats one permutation. A null distribution has one value.
#
# Output seen:
#   scanpy 1.11.5
#   guess: 5 permutations in a row differ
#   seen:  1 different permutation of 5, each drawn after score_genes
#   seen:  another seed of the caller (1, then 2): the same draw after score_genes: True
#
# Exit status: 0 while the behaviour stands, otherwise not 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=(scanpy==1.11.5 anndata==0.12.19 numpy==2.4.6 pandas==2.3.3)
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
import scanpy as sc

sc.settings.verbosity = 0
adata = ad.AnnData(np.random.default_rng(0).normal(3, 1, (50, 200)).astype("float32"))


def score() -> None:
    sc.tl.score_genes(adata, list(adata.var_names[:5]))


print("scanpy", sc.__version__)
print("guess: 5 permutations in a row differ")
drawn = set()
for _ in range(5):
    score()
    drawn.add(tuple(np.random.permutation(50)))
print(f"seen:  {len(drawn)} different permutation of 5, each drawn after score_genes")
after = []
for seed in (1, 2):
    np.random.seed(seed)
    score()
    after.append(np.random.rand())
print(f"seen:  another seed of the caller (1, then 2): the same draw after score_genes: {after[0] == after[1]}")
assert len(drawn) == 1 and after[0] == after[1]
PY
