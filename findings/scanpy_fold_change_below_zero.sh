#!/usr/bin/env bash
# The sign of scanpy's log fold change flips where expression lies below zero.
#
# Packages: scanpy 1.11.5, anndata 0.12.19, numpy 2.4.6.
# Guess: the group with the higher mean has a positive log fold change. The score of
# the t-test and the fold change have the same sign.
# What happens: rank_genes_groups takes both means back from the logarithm by expm1 and
# divides them. Means of -0.5 and -1.0 become -0.39 and -0.63, and the logarithm of
# their ratio is negative though the first group is higher. Means of different signs
# have a negative ratio, and the fold change is NaN. Score and p-value are right.
# Why it matters: a regression model predicts log expression, and its output may go
# below zero.
#
# Output seen:
#   scanpy 1.11.5
#   guess: three positive log fold changes, since the group 'high' is higher in each gene
#   seen:  means 1.0 and 0.5: score 52, log fold change 1.41
#   seen:  means -0.5 and -1.0: score 53, log fold change -0.69
#   seen:  means 0.2 and -0.2: score 36, log fold change nan
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
import pandas as pd
import scanpy as sc

rng = np.random.default_rng(0)
means = {"above": (1.0, 0.5), "below": (-0.5, -1.0), "across": (0.2, -0.2)}
X = np.column_stack([np.r_[rng.normal(a, 0.05, 50), rng.normal(b, 0.05, 50)] for a, b in means.values()])
adata = ad.AnnData(X.astype("float32"))
adata.var_names = list(means)
adata.obs["group"] = pd.Categorical(["high"] * 50 + ["low"] * 50)
sc.tl.rank_genes_groups(adata, "group", groups=["high"], reference="low", method="t-test")
table = sc.get.rank_genes_groups_df(adata, "high").set_index("names")

print("scanpy", sc.__version__)
print("guess: three positive log fold changes, since the group 'high' is higher in each gene")
for name, (high, low) in means.items():
    row = table.loc[name]
    print(f"seen:  means {high} and {low}: score {row['scores']:.0f}, log fold change {row['logfoldchanges']:.2f}")
assert (table["scores"] > 10).all()
assert table.loc["above", "logfoldchanges"] > 0
assert table.loc["below", "logfoldchanges"] < 0
assert np.isnan(table.loc["across", "logfoldchanges"])
PY
