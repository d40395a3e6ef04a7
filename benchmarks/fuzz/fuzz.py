"""Change files of every reader at random, and count what comes of it.

    python benchmarks/fuzz/fuzz.py --inputs 20000 --log tried.tsv --out benchmarks/results/fuzz

Bytes are flipped, moved and cut off; columns, rows and cells of tables, values of JSON, datasets and attributes of HDF5
are renamed, left out and changed in value, type and shape; and so are the parts of a section in memory. Each input has
a number, which all that is drawn for it follows from. An input is *accepted* (and then checked by other code than the
reader's), *refused* by an error of this package of one line, or it is a failure: a *traceback*, a *hang* (20 s; a C
library that does not answer is killed after 30 s), a *crash* of the process, or *wrong*. The table of counts and the
list of failures are written every few hundred inputs; the exit code is 1 if there is a failure.

With ``--log``, each input is noted in a file. Those that stand there are not tried again, so that the same command goes
on after it was stopped.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
_ROOT = str(Path(__file__).resolve().parents[2])
sys.path.insert(0, _ROOT)

from pebble import ProcessExpired, ProcessPool  # noqa: E402

from tests.fuzz import ACCEPTED, HANG, REFUSED, TRACEBACK, WRONG, Seed, seeds, try_input  # noqa: E402

CRASH = "crash"
OUTCOMES = (ACCEPTED, REFUSED, TRACEBACK, HANG, CRASH, WRONG)

#: Memory that a process may ask for; what asks for more is a traceback.
_BYTES = 8 * 2**30
#: A process that has not answered by then is killed.
_SECONDS = 30
#: The table is written after so many inputs.
_EVERY = 250


class Tried(NamedTuple):
    """An input, and what came of it."""

    number: int
    kind: str
    outcome: str
    told: str


def main() -> int:
    """Try the inputs and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--kinds", nargs="*", help="only these kinds of files")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--log", type=Path, help="one line for each input; those in it are not tried again")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    numbers = range(given.first, given.first + given.inputs)
    with tempfile.TemporaryDirectory() as place:
        kinds = given.kinds or list(seeds(Path(place)))
    tried = [each for each in noted(given.log) if each.number in numbers]
    left = sorted(set(numbers) - {each.number for each in tried})
    end = time.monotonic() + given.seconds
    for each in outcomes(left, kinds, given.processes, end):
        tried.append(each)
        if given.log is not None:
            with given.log.open("a") as file:
                file.write("\t".join(map(str, each)) + "\n")
        if each.outcome not in {ACCEPTED, REFUSED}:
            print(failure(each), flush=True)
        if len(tried) % _EVERY == 0:
            write(given.out, tried, kinds)
    write(given.out, tried, kinds)
    print("\n".join(table(tried, kinds)))
    return int(any(each.outcome not in {ACCEPTED, REFUSED} for each in tried))


def noted(log: Path | None) -> Iterator[Tried]:
    """Read the inputs that a log has."""
    for line in log.read_text().splitlines() if log is not None and log.is_file() else ():
        number, *rest = line.split("\t")
        yield Tried(int(number), *rest)


def outcomes(numbers: Iterable[int], kinds: Sequence[str], processes: int, end: float) -> Iterator[Tried]:
    """Try inputs in processes of their own, which are killed if they do not answer; give them in their order."""
    # The server of new processes loads this, and the processes are copies of it.
    os.environ["PYTHONPATH"] = os.pathsep.join([_ROOT, os.environ.get("PYTHONPATH", "")])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.fuzz"])
    left, going = deque(numbers), deque[tuple[int, str, "Future[tuple[str, str]]"]]()
    with tempfile.TemporaryDirectory() as place:
        pool = ProcessPool(processes, initializer=_begin, initargs=(place,), context=context)
        with pool:
            while going or (left and time.monotonic() < end):
                while left and len(going) < 4 * processes and time.monotonic() < end:
                    number = left.popleft()
                    kind = kinds[number % len(kinds)]
                    going.append((number, kind, pool.schedule(_try, args=(number, kind), timeout=_SECONDS)))
                number, kind, future = going.popleft()
                try:
                    outcome, told = future.result()
                except TimeoutError:
                    outcome, told = HANG, f"killed after {_SECONDS} s"
                except ProcessExpired as error:
                    outcome, told = CRASH, f"the process ended with {_named(error.exitcode)}"
                yield Tried(number, kind, outcome, " ".join(told.split()))


def _named(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else str(code)


_made: dict[str, Seed] = {}
_folder = Path()


def _begin(place: str) -> None:
    """Make a process ready: write its own files of every kind, and limit its memory."""
    global _folder
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _folder = Path(tempfile.mkdtemp(dir=place))
    os.environ["NH2ST_GRAPH_CACHE"] = str(_folder / "cache")
    _made.update(seeds(_folder))


def _try(number: int, kind: str) -> tuple[str, str]:
    return try_input(_made[kind], random.Random(number), _folder / "tried")


def failure(tried: Tried) -> str:
    """Say what failed in one line."""
    return f"{tried.number} {tried.kind}: {tried.outcome}: {tried.told}"


def table(tried: Sequence[Tried], kinds: Sequence[str]) -> list[str]:
    """Count the outcomes of each kind of files."""
    found = Counter((each.kind, each.outcome) for each in tried)
    lines = ["| files | inputs | " + " | ".join(OUTCOMES) + " |", "| --- " * (len(OUTCOMES) + 2) + "|"]
    for kind in (*kinds, "all"):
        counts = [sum(n for (k, o), n in found.items() if o == outcome and kind in (k, "all")) for outcome in OUTCOMES]
        lines.append(f"| {kind} | " + " | ".join(f"{n:,}" for n in (sum(counts), *counts)) + " |")
    return lines


def write(out: Path | None, tried: Sequence[Tried], kinds: Sequence[str]) -> None:
    """Write the table and the list of failures."""
    if out is None or not tried:
        return
    out.mkdir(parents=True, exist_ok=True)
    numbers = [each.number for each in tried]
    first = f"{len(tried):,} inputs, {min(numbers):,} to {max(numbers):,}.\n\n"
    (out / "table.md").write_text(first + "\n".join(table(tried, kinds)) + "\n")
    failures = [each for each in tried if each.outcome not in {ACCEPTED, REFUSED}]
    (out / "failures.txt").write_text("".join(f"{failure(each)}\n" for each in sorted(failures)))


if __name__ == "__main__":
    sys.exit(main())
