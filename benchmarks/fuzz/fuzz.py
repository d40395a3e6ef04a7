"""Change files of every reader at random, and count what comes of it.

    python benchmarks/fuzz/fuzz.py --inputs 20000 --out benchmarks/results/fuzz

Bytes are flipped, moved and cut off; columns, rows and cells of tables, values of JSON, datasets and attributes of HDF5
are renamed, left out and changed in value, type and shape; and so are the parts of a section in memory. Each input has
a number, which all that is drawn for it follows from. An input is *accepted* (and then checked by other code than the
reader's), *refused* by an error of this package of one line, or it is a failure: a *traceback*, a *hang* (20 s) or
*wrong*. The table of counts and the list of failures are written; the exit code is 1 if there is a failure.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.fuzz import ACCEPTED, HANG, REFUSED, TRACEBACK, WRONG, seeds, try_input

OUTCOMES = (ACCEPTED, REFUSED, TRACEBACK, HANG, WRONG)

#: Memory that the process may ask for; what asks for more is a traceback.
_BYTES = 8 * 2**30


def main() -> int:
    """Try the inputs and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--kinds", nargs="*", help="only these kinds of files")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    with tempfile.TemporaryDirectory() as place:
        os.environ["NH2ST_GRAPH_CACHE"] = str(Path(place) / "cache")
        made = seeds(Path(place))
        kinds = given.kinds or list(made)
        found: Counter[tuple[str, str]] = Counter()
        failures, begin = [], time.monotonic()
        for number in range(given.first, given.first + given.inputs):
            if time.monotonic() - begin > given.seconds:
                break
            kind = kinds[number % len(kinds)]
            outcome, told = try_input(made[kind], random.Random(number), Path(place) / "tried")
            found[kind, outcome] += 1
            if outcome not in {ACCEPTED, REFUSED}:
                failures.append(f"{number} {kind}: {outcome}: {told}")
                print(failures[-1], flush=True)
    table = ["| files | inputs | " + " | ".join(OUTCOMES) + " |", "| --- " * (len(OUTCOMES) + 2) + "|"]
    for kind in (*kinds, "all"):
        counts = [sum(n for (k, o), n in found.items() if o == outcome and kind in (k, "all")) for outcome in OUTCOMES]
        table.append(f"| {kind} | " + " | ".join(f"{n:,}" for n in (sum(counts), *counts)) + " |")
    print("\n".join(table))
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        first = f"Inputs {given.first} to {given.first + sum(found.values()) - 1}.\n\n"
        (given.out / "table.md").write_text(first + "\n".join(table) + "\n")
        (given.out / "failures.txt").write_text("".join(f"{each}\n" for each in failures))
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
