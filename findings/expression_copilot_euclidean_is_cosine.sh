#!/usr/bin/env bash
# The Euclidean neighbours of ExpressionCopilot are those of the smallest angle.
#
# Packages: expression-copilot 0.3.0, faiss-cpu 1.15.1, numpy 2.4.6, scikit-learn 1.9.1.
# Guess: knn(points, metric="euclidean") gives the nearest points, as scikit-learn does.
# What happens: on the faiss path each row is scaled to length 1 first, whatever the metric. So a
# point in the same direction and a hundred times as far comes before one that is near.
# Distances are squared, too. The scores EPS and SPS rest on these neighbours.
# Why it matters: two implementations of the score differ unless both scale the rows, and an
# embedding whose length says something (a spot with much or with little tissue) loses it.
#
# Output seen:
#   expression-copilot 0.3.0, faiss 1.15.1
#   guess: the nearest of (1, 0) is (1.1, 0.2), as scikit-learn says
#   seen:  "euclidean" gives (100, 1), as the angle does
#
# Exit status: 0 while the behaviour stands, otherwise not 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=(expression-copilot==0.3.0 faiss-cpu==1.15.1 numpy==2.4.6 pandas==2.3.3 scikit-learn==1.9.1 scanpy==1.11.5 anndata==0.12.19)
if command -v uv >/dev/null; then
  uv venv -q --python python3 "$work/venv"
  uv pip install -q --python "$work/venv/bin/python" "${packages[@]}"
else
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install -q "${packages[@]}"
fi
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import sys
from importlib.metadata import version

import faiss
import numpy as np
from expression_copilot.utils import knn
from sklearn.neighbors import NearestNeighbors

points = np.array([[1.1, 0.2], [100.0, 1.0], [-5.0, 3.0]], dtype=np.float32)
query = np.array([[1.0, 0.0]], dtype=np.float32)
print(f"expression-copilot {version('expression-copilot')}, faiss {faiss.__version__}")

by_distance = int(NearestNeighbors(n_neighbors=1).fit(points).kneighbors(query)[1][0, 0])
by_angle = int(NearestNeighbors(n_neighbors=1, metric="cosine").fit(points).kneighbors(query)[1][0, 0])
found = {}
for metric in ("euclidean", "cosine"):
    first, second = knn(query.copy(), points.copy(), k=1, metric=metric, method="faiss")
    index = first if np.issubdtype(np.asarray(first).dtype, np.integer) else second
    found[metric] = int(np.asarray(index)[0, 0])
print(f"guess: the nearest of (1, 0) is ({points[by_distance][0]:.3g}, {points[by_distance][1]:.3g}), as scikit-learn says")
nearest = points[found["euclidean"]]
print(f'seen:  "euclidean" gives ({nearest[0]:.3g}, {nearest[1]:.3g}), as the angle does')
sys.exit(not (found["euclidean"] == found["cosine"] == by_angle != by_distance))
PY
