#!/usr/bin/env bash
# anndata reads spots named 10_13 as counts of a gene with the number 1013.
#
# Packages: anndata 0.12.19, numpy 2.4.6.
# Guess: the first column of a table of counts holds the names of the spots. A name such
# as 10_13 is no number.
# What happens: read_text and read_csv take the first column for names unless Python's
# float() takes its entries. float("10_13") is 1013, since Python allows _ in numbers.
# So the names become the counts of a first gene, and the spots are called 0, 1, 2. The
# same table with 10x13 is read right.
# Why it matters: x_y is a common name of a spot on a Spatial Transcriptomics array, and
# the extra gene, with the largest counts, tells where the spot lies.
#
# Output seen:
#   anndata 0.12.19
#   guess: two spots and two genes, GATA3 and ESR1, from both tables
#   seen:  10x13: spots ['10x13', '11x13'], genes ['GATA3', 'ESR1'], X [[1.0, 2.0], [3.0, 4.0]]
#   seen:  10_13: spots ['0', '1'], genes ['', 'GATA3', 'ESR1'], X [[1013.0, 1.0, 2.0], [1113.0, 3.0, 4.0]]
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

print("anndata", ad.__version__)
print("guess: two spots and two genes, GATA3 and ESR1, from both tables")
found = {}
with tempfile.TemporaryDirectory() as folder:
    for sign in "x_":
        file = pathlib.Path(folder) / "counts.tsv"
        file.write_text(f"\tGATA3\tESR1\n10{sign}13\t1\t2\n11{sign}13\t3\t4\n")
        adata = ad.io.read_text(file, delimiter="\t")
        found[sign] = adata
        print(f"seen:  10{sign}13: spots {list(adata.obs_names)}, genes {list(adata.var_names)}, X {adata.X.tolist()}")
assert found["x"].shape == (2, 2) and list(found["x"].obs_names) == ["10x13", "11x13"]
assert found["_"].shape == (2, 3) and found["_"].X[:, 0].tolist() == [1013.0, 1113.0]
PY
