"""Measure in processes of their own, which may use the package of another checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

__all__ = ["in_process"]


def in_process(script: str, checkout: Path, *arguments: object, threads: int) -> dict[str, float]:
    """Run a script of this folder with ``--one`` and these arguments, and read the JSON of its last line.

    Parameters
    ----------
    script
        The script's own path, whatever the checkout.
    checkout
        Folder of the package.
    threads
        Threads of every library.
    """
    paths = os.pathsep.join([str(checkout), str(Path(script).parent)])
    environment = {**os.environ, "PYTHONPATH": paths}
    environment |= {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "MKL", "OPENBLAS")}
    command = [sys.executable, script, "--one", *map(str, arguments)]
    run = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(run.stderr)
    found: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return found
