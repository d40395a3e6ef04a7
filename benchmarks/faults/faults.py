"""Kill, interrupt, fill the disk of and run several at once of every command, and check that nothing is lost.

    python benchmarks/faults/faults.py --kills 50 --out benchmarks/results/faults

Needs Linux, and root for the small disk (tmpfs) and for processes of another user. Every trial is a process of its own
on tiny sections. Moments are drawn by CPU time, so that a busy machine draws the same. The table is written; the exit
code is 1 if something is lost, half-written, differs, or is not said in one line of ours.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import torch  # noqa: E402
from _place import (  # noqa: E402
    Command,
    Place,
    cpu_seconds,
    differences,
    half_written,
    loaded_modules,
    name_of,
    signal_after,
)

from nh2st_graph.im import SquidpyEncoder, _features  # noqa: E402

#: Unprivileged user.
_NOBODY = 65534

Row = tuple[object, ...]


def main() -> int:
    """Do all trials and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--signals", type=int, default=3, help="of each kind to each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=["kills", "disk", "readonly", "signals", "several"])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    # A shell lets what it starts in the background ignore Ctrl-C, and so would the commands.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _features._PART_SPOTS = 16
    root = Path(tempfile.mkdtemp(prefix="faults-"))
    root.chmod(0o755)
    try:
        trials = Trials(Place(root), random.Random(given.seed))
        for name in given.only:
            begin, before = time.monotonic(), len(trials.failures)
            lines = list(getattr(trials, name)(given))
            failures = trials.failures[before:]
            lines += [f"{time.monotonic() - begin:.0f} s. Failures: {len(failures)}.", ""]
            lines += [f"- {each}" for each in failures]
            print("\n".join(lines), flush=True)
            if given.out is not None:
                given.out.mkdir(parents=True, exist_ok=True)
                (given.out / f"{name}.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return bool(trials.failures)


class Trials:
    """The commands, what each writes if nothing happens, and the trials."""

    def __init__(self, place: Place, drawn: random.Random) -> None:
        self.place, self.drawn, here = place, drawn, place.here
        self.failures: list[str] = []
        files = sorted(place.sections.glob("*.h5ad"))
        self.model = place.root / "model"
        place.clear()
        train = Command("train", ("train", place.config, "--out", here / "out"))
        loaded_modules(place, [train])
        shutil.copytree(here / "out", self.model)
        several = ("--jobs", "1")
        changes = (
            f"data.panel={place.root / 'panel.txt'}",
            "features.encoder=squidpy:summary",
            "features.patch_um=112",
        )
        quick = tuple(word for each in changes for word in ("--set", each))
        self.commands = {
            each.name: each
            for each in (
                train,
                Command("predict", ("predict", self.model, *files, "--out", here / "out")),
                Command("prepare", ("prepare", "h5ad", place.sections, "--out", here / "out", "--no-check-placement")),
                Command("prepare config", ("prepare", place.config, "--out", here / "out")),
                Command("ablate", ("ablate", place.study, "--out", here / "out", *several)),
                Command("benchmark", ("benchmark", place.benchmark, "--out", here / "out", *several)),
                Command("predictability", ("predictability", *files, "--out", here / "out", *quick), ()),
                Command("evaluate", ("evaluate", here / "out"), ()),
            )
        }
        loaded_modules(place, [self.commands[name] for name in ("benchmark", "predictability")])
        self.expected: dict[str, Path] = {}
        self.seconds: dict[str, float] = {}
        for name, command in self.commands.items():
            self._begin(command)
            number = place.start(command.words)
            os.waitid(os.P_PID, number, os.WEXITED | os.WNOWAIT)
            self.seconds[name] = cpu_seconds(number)
            print(f"{name}: {self.seconds[name]:.2f} s", file=sys.stderr, flush=True)
            code = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
            if code:
                raise SystemExit(f"{name} ends with {code}: {place.said.read_text()}")
            self.expected[name] = place.root / f"expected {name}"
            shutil.copytree(here, self.expected[name])

    def fail(self, *what: str) -> None:
        """Note failures, and show them."""
        self.failures += what
        for each in what:
            print(f"failed: {each}", file=sys.stderr, flush=True)

    def _begin(self, command: Command) -> None:
        """Empty the folder of a trial, and put there what the command needs."""
        self.place.clear()
        if command.name == "evaluate":
            shutil.copytree(self.model, self.place.here / "out")

    def _check(self, what: str, command: Command) -> tuple[str, str]:
        """Compare what is there with the uninterrupted result; and say what no reader opens."""
        half, other = half_written(self.place.here), differences(self.place.here, self.expected[command.name])
        self.fail(*(f"{what}: half-written: {each}" for each in half))
        self.fail(*(f"{what}: differs: {each}" for each in other))
        return ("equal" if not other else f"{len(other)} files differ"), ("none" if not half else str(len(half)))

    def _go_on(self, command: Command) -> int:
        return self.place.run((*command.words, *command.resume))

    def kills(self, given: argparse.Namespace) -> Iterator[str]:
        """SIGKILL at random moments."""
        names = ["train", "predict", "ablate", "prepare", "prepare config", "benchmark", "evaluate"]
        share = dict(zip(names, (16, 10, 10, 3, 3, 5, 3), strict=True))
        rows: list[Row] = []
        for name in names:
            command, n = self.commands[name], max(1, round(share[name] * given.kills / 50))
            killed = whole = equal = begun = 0
            while killed < n:
                self._begin(command)
                number = self.place.start(command.words)
                moment = self.drawn.uniform(0, self.seconds[name])
                if not signal_after(number, moment, signal.SIGKILL):
                    continue  # it was over
                killed += 1
                what = f"{name} killed after {moment:.2f} s"
                half = half_written(self.place.here)
                self.fail(*(f"{what}: half-written: {each}" for each in half))
                whole += not half
                there = (self.place.here / "out").exists()
                begun += there
                code = self._go_on(command) if there else self.place.run(command.words)
                if code:
                    self.fail(f"{what}: goes on with {code}: {self.place.last_line()}")
                    continue
                equal += self._check(what, command)[0] == "equal"
            rows.append((name, killed, begun, whole, equal))
        yield from table(
            "SIGKILL at random moments, then the same command with --resume",
            ("command", "kills", "with a folder by then", "nothing half-written", "equal in the end"),
            rows,
        )

    def signals(self, given: argparse.Namespace) -> Iterator[str]:
        """Ctrl-C and SIGTERM at random moments."""
        rows: list[Row] = []
        for name, command in self.commands.items():
            for what in (signal.SIGINT, signal.SIGTERM):
                sent = clean = equal = 0
                while sent < given.signals:
                    self._begin(command)
                    number = self.place.start(command.words)
                    if not signal_after(number, self.drawn.uniform(0.1, 0.9) * self.seconds[name], what):
                        continue  # it was over
                    status, said = name_of(signal_after.status), self.place.last_line()
                    if status == "0" and signal_after.at >= float(self.place.over.read_text()):
                        continue  # it was over, but for the end of its process
                    sent += 1
                    left = [str(path) for path in self.place.here.rglob("*.part")]
                    said_it = said.startswith(("interrupted; ", "ended by SIGTERM; "))
                    good = status == str(128 + what) and said_it and self.place.in_one_line() and not left
                    clean += good
                    if not good:
                        self.fail(f"{name}, {what.name}: ends with {status}: {said} {left}")
                    there = (self.place.here / "out").exists()
                    code = self._go_on(command) if there else self.place.run(command.words)
                    if code:
                        self.fail(f"{name}, {what.name}: goes on with {code}: {self.place.last_line()}")
                    else:
                        equal += self._check(f"{name}, {what.name}", command)[0] == "equal"
                rows.append((name, what.name, sent, clean, equal))
        yield from table(
            "Ctrl-C and SIGTERM at random moments, then the same command again",
            ("command", "signal", "sent", "ended in order with a message", "equal in the end"),
            rows,
        )

    def disk(self, given: argparse.Namespace) -> Iterator[str]:
        """A disk that gets full."""
        rows: list[Row] = []
        for name, command in self.commands.items():
            size = sum(path.stat().st_size for path in self.expected[name].rglob("*") if path.is_file())
            for share in (0.1, 0.5, 0.85):
                with self._mounted():
                    self._begin_mounted(command)
                    used = _used(self.place.here)
                    self._resize(used + max(int(share * (size - used)), 8192))
                    code = self.place.run(command.words)
                    said, half = self.place.last_line(), half_written(self.place.here)
                    good = code in ({1, 2} if name in {"ablate", "benchmark", "prepare"} else {2})
                    good = good and self.place.in_one_line() and ("disk is full" in self.place.said.read_text())
                    if name == "predictability" and code == 0:  # only features did not fit, which is no error
                        good = "cannot be cached" in self.place.said.read_text()
                    if not good or half:
                        self.fail(f"{name}, full at {share:.0%}: {code}: {said} {half} {self.place.traceback()}")
                    self._resize(2**28)
                    there = (self.place.here / "out").exists()
                    again = self._go_on(command) if there else self.place.run(command.words)
                    if again and not code:
                        again = 0
                    if again:
                        self.fail(f"{name}, full at {share:.0%}: goes on with {again}: {self.place.last_line()}")
                        equal = "-"
                    else:
                        equal = self._check(f"{name}, full at {share:.0%}", command)[0]
                rows.append((name, f"{share:.0%}", code, _shortened(said), half or "none", equal))
        yield from table(
            "A disk (tmpfs) that is full at a share of what is written, then the same command with room",
            ("command", "full at", "exit code", "last line", "half-written", "in the end"),
            rows,
        )

    def readonly(self, given: argparse.Namespace) -> Iterator[str]:
        """A folder of another user, and a disk that is mounted read-only."""
        rows: list[Row] = []
        for name, command in self.commands.items():
            self._begin(command)
            code = self.place.run(command.words, lambda: os.setuid(_NOBODY))
            rows.append((name, "another user's folder", code, _shortened(self._refused(name, code))))
            if name != "evaluate":
                continue
        with self._mounted():
            self._begin_mounted(self.commands["train"])
            self.place.run(self.commands["train"].words)
            self._remount("ro")
            for name, words in (
                ("train, resumed", (*self.commands["train"].words, "--resume")),
                ("evaluate", ("evaluate", self.place.here / "out")),
                ("predict into it", (*self.commands["predict"].words[:-1], self.place.here / "new")),
            ):
                code = self.place.run(words)
                rows.append((name, "read-only disk", code, _shortened(self._refused(name, code))))
            self._remount("rw")
        self._begin(self.commands["predict"])
        cache = self.place.here / "cache"
        cache.mkdir()
        (self.place.here / "out").mkdir()
        os.chown(self.place.here / "out", _NOBODY, _NOBODY)
        code = self.place.run((*self.commands["predict"].words,), lambda: os.setuid(_NOBODY))
        warned = [line for line in self.place.said.read_text().splitlines() if "cannot be cached" in line]
        if code or not warned:
            self.fail(f"predict with a read-only cache: {code}: {self.place.last_line()}")
        rows.append(
            ("predict", "read-only cache", code, _shortened((warned or ["-"])[0].replace(str(self.place.root), "")))
        )
        yield from table("Folders that cannot be written to", ("command", "what", "exit code", "what it says"), rows)

    def _refused(self, name: str, code: int) -> str:
        said = self.place.last_line()
        ours = re.match(r"error: .*(cannot be written|read-only)", said)
        if code != 2 or not ours or not self.place.in_one_line():
            self.fail(f"{name}, read-only: {code}: {said}")
        return said

    def several(self, given: argparse.Namespace) -> Iterator[str]:
        """Four processes at once, that share a cache and a folder."""
        rows: list[Row] = []
        command, log = self.commands["predict"], self.place.root / "encoded.txt"
        for what, words in (
            ("into one folder with --resume", [(*command.words, "--resume")] * 4),
            ("into folders of their own", [(*command.words[:-1], self.place.here / f"out{i}") for i in range(4)]),
        ):
            self._begin(command)
            log.unlink(missing_ok=True)
            numbers = [self.place.start(each, lambda: _counted(log)) for each in words]
            codes = [os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) for number in numbers]
            batches = len(log.read_text().splitlines())
            rows.append((f"4 x predict {what}", codes, batches, "-"))
            if any(codes):
                self.fail(f"4 x predict {what}: {codes}: {self.place.said.read_text()}")
        self._begin(command)
        log.unlink(missing_ok=True)
        self.place.run(command.words, lambda: _counted(log))
        rows.append(("1 x predict", [0], len(log.read_text().splitlines()), "-"))
        if len({row[2] for row in rows}) > 1:
            self.fail(f"several at once encode more: {[row[2] for row in rows]}")
        # The holder of all locks dies; another one goes on at once.
        self._begin(command)
        number = self.place.start((*command.words, "--resume"), lambda: _counted(log))
        signal_after(number, self.seconds["predict"] / 2, signal.SIGKILL)
        begin = time.monotonic()
        code = self.place.run((*command.words, "--resume"))
        rows.append(("predict after a killed one", [code], "-", f"{time.monotonic() - begin:.1f} s"))
        self._check("predict after a killed one", command)
        train = self.commands["train"]
        self._begin(train)
        numbers = [self.place.start(train.words) for _ in range(4)]
        codes = sorted(os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) for number in numbers)
        equal = self._check("4 x train", train)[0]
        if codes != [0, 2, 2, 2]:
            self.fail(f"4 x train into one folder: {codes}")
        rows.append(("4 x train into one folder", codes, "-", equal))
        yield from table("Several at once", ("what", "exit codes", "batches encoded", "in the end"), rows)

    @contextmanager
    def _mounted(self) -> Iterator[None]:
        self.place.clear()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m,mode=755", "tmpfs", self.place.here], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", "-l", self.place.here], check=True)

    def _begin_mounted(self, command: Command) -> None:
        if command.name == "evaluate":
            shutil.copytree(self.model, self.place.here / "out")

    def _resize(self, size: int) -> None:
        self._remount(f"size={-(-size // 4096) * 4096}")

    def _remount(self, how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", self.place.here], check=True)


def _used(folder: Path) -> int:
    about = os.statvfs(folder)
    return (about.f_blocks - about.f_bfree) * about.f_frsize


def _counted(log: Path) -> None:
    """Note each batch that is encoded in a file."""
    encode = SquidpyEncoder.encode

    def noted(self: SquidpyEncoder, patches: object) -> object:
        if len(patches) > 1:  # one alone tells how many features there are
            with log.open("a") as file:
                file.write("batch\n")
        return encode(self, patches)

    SquidpyEncoder.encode = noted


def _shortened(text: str) -> str:
    return text if len(text) < 110 else f"{text[:107]}..."


def table(title: str, columns: Row, rows: list[Row]) -> list[str]:
    """Write a table as Markdown."""
    lines = [f"## {title}", "", "| " + " | ".join(map(str, columns)) + " |", "|" + " --- |" * len(columns)]
    return [*lines, *("| " + " | ".join(str(each).replace("|", "/") for each in row) + " |" for row in rows), ""]


if __name__ == "__main__":
    raise SystemExit(main())
