"""Make all tables of ``benchmarks/results/trust``, one script after the other.

    python benchmarks/trust_all.py --data DIR --out FOLDER [--cache DIR]

``DIR`` holds ``her2st/`` (the repository almaan/her2st), ``visium_tiny/`` and ``gene_panels/``. ``FOLDER`` keeps models
and scores, so that the command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "trust"


def main() -> None:
    """Run the four scripts; the first that fails ends it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of her2st, visium_tiny and gene_panels")
    parser.add_argument("--out", type=Path, required=True, help="folder of what is done")
    parser.add_argument("--cache", type=Path, help="folder of the feature cache")
    options = parser.parse_args()
    common = ["--data", str(options.data), *(["--cache", str(options.cache)] if options.cache else [])]
    for script, more in {
        "trust.py": [],
        "familiarity.py": ["--out", str(RESULTS / "familiarity.md")],
        "predictability.py": ["--out", str(options.out / "scores")],
        "imputation.py": ["--models", str(options.out / "models")],
    }.items():
        print(f"{script}", flush=True)
        subprocess.run([sys.executable, str(HERE / script), *common, *more], check=True)


if __name__ == "__main__":
    main()
