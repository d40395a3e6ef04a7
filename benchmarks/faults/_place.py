"""What the faults are tried on: tiny sections, a command in a process of its own, and the check of what it leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import torch
import yaml
from PIL import Image
from safetensors.numpy import load_file

import nh2st_graph as ng
from nh2st_graph.cli import main

#: Files that are written as streams, or that a process leaves on purpose.
_STREAMS = {"tensorboard"}


class Place:
    """A folder with inputs, and one ``here`` in which each trial is done, so that all paths in files are the same."""

    def __init__(self, root: Path) -> None:
        self.root, self.here, self.said = root, root / "here", root / "said.txt"
        #: The CPU time after which the last command had done all its work.
        self.over = root / "over.txt"
        self.sections = root / "sections"
        sections = ng.datasets.synthetic_tissue(
            folder=root / "tissue", n_sections=3, n_rows=7, n_cols=7, n_own=4, n_neighbour=4, n_noise=2, seed=0
        )
        for name, section in sections.items():
            ng.read.write_h5ad(section, self.sections / f"{name}.h5ad")
        panel = root / "panel.txt"
        panel.write_text("\n".join(next(iter(sections.values())).var_names[:8]) + "\n")
        values = {
            "data": {
                "format": "h5ad",
                "root": str(self.sections),
                "train": ["S1", "S2"],
                "test": ["S3"],
                "panel": str(panel),
            },
            "features": {"encoder": "squidpy:summary", "patch_um": 112, "batch_size": 16},
            "model": {"width": 8, "n_components": 3, "heads": 2},
            "train": {"max_epochs": 4, "batch_spots": 32, "device": "cpu", "progress": False, "checkpoint_seconds": 0},
            "evaluate": {"figures": False, "baselines": False},
        }
        self.config = root / "config.yaml"
        self.config.write_text(yaml.safe_dump(values))
        self.study = root / "study.yaml"
        variants = {"without neighbours": {"model.neighbours": False}}
        self.study.write_text(yaml.safe_dump({"base": "config.yaml", "seeds": [0], "variants": variants}))
        self.benchmark = root / "benchmark.yaml"
        self.benchmark.write_text(
            yaml.safe_dump(
                {
                    "base": "config.yaml",
                    "methods": {"ridge": {"model.name": "ridge"}, "mean": {"model.name": "mean"}},
                    "splits": {"s3": {"train": ["S1", "S2"], "test": ["S3"]}},
                    "seeds": [0],
                }
            )
        )

    def clear(self) -> None:
        """Empty the folder of a trial."""
        shutil.rmtree(self.here, ignore_errors=True)
        self.here.mkdir(exist_ok=True)

    def start(self, words: Sequence[object], prepare: Callable[[], None] | None = None) -> int:
        """Run a command in a copy of this process, which has loaded everything; give its number."""
        number = os.fork()
        if number:
            return number
        code, over = 70, self.over.open("w")  # the command may run as another user, who may not write here
        try:
            with self.said.open("w") as said:
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
            os.environ["NH2ST_GRAPH_CACHE"] = str(self.here / "cache")
            if prepare is not None:
                prepare()
            main([str(word) for word in words])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except BaseException:
            traceback.print_exc()
        finally:
            over.write(str(time.process_time()))
            over.close()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def run(self, words: Sequence[object], prepare: Callable[[], None] | None = None) -> int:
        """Run a command in a process of its own, and give its exit code."""
        return os.waitstatus_to_exitcode(os.waitpid(self.start(words, prepare), 0)[1])

    def last_line(self) -> str:
        """The last line that the last command said."""
        lines = [line for line in self.said.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1].replace(str(self.root), "") if lines else ""

    def traceback(self) -> str:
        """The end of the last command's traceback, in one line; empty if there is none."""
        _, found, text = self.said.read_text(errors="replace").rpartition("Traceback")
        return " / ".join(line.strip() for line in text.splitlines()[-14:]) if found else ""

    def in_one_line(self) -> bool:
        """Whether the last command said no traceback."""
        return "Traceback" not in self.said.read_text(errors="replace")


def cpu_seconds(number: int) -> float:
    """CPU time of a process so far."""
    return time.clock_gettime((~number << 3) | 2)


def signal_after(number: int, seconds: float, what: int) -> bool:
    """Send a signal once a process has used that CPU time; say whether it was still there.

    The attributes ``status`` and ``at`` are how it ended, and the CPU time by which it had the signal.
    """
    while True:
        ended, status = os.waitpid(number, os.WNOHANG)
        if ended:
            signal_after.status = status
            return False
        if cpu_seconds(number) >= seconds:
            os.kill(number, what)
            signal_after.at = cpu_seconds(number)
            signal_after.status = os.waitpid(number, 0)[1]
            return True
        time.sleep(0.002)


def half_written(folder: Path) -> list[str]:
    """List the files that cannot be read to their end under their final names."""
    found = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name.startswith(".") or _STREAMS & set(path.parts):
            continue
        try:
            _read(path)
        except Exception as error:
            found.append(f"{path.relative_to(folder)}: {error}")
    return found


def _read(path: Path) -> None:
    kind = path.suffix
    if kind == ".h5ad":
        ad.read_h5ad(path)
        with h5py.File(path) as file:
            file.visititems(lambda _, each: each[()] if isinstance(each, h5py.Dataset) else None)
    elif kind == ".json":
        json.loads(path.read_text())
    elif kind in {".yaml", ".yml"}:
        assert yaml.safe_load(path.read_text())
    elif kind == ".safetensors":
        load_file(path)
    elif kind in {".csv", ".gz"}:
        pd.read_csv(path)
    elif kind == ".ckpt":
        torch.load(path, weights_only=True)
    elif kind in {".png", ".jpg"}:
        Image.open(path).load()
    elif kind == ".html":
        assert path.read_text().rstrip().endswith("</html>")
    elif kind in {".md", ".txt"}:
        path.read_text(encoding="utf-8")
    else:
        raise AssertionError("nobody knows how to read it")


#: Numbers that say how long something took.
_COSTS = {"seconds", "fit_seconds", "predict_seconds", "peak_memory_mb"}


def differences(found: Path, expected: Path) -> list[str]:
    """List the files that two folders do not have in common, or not with the same content."""
    names = [{str(path.relative_to(folder)) for path in _results(folder)} for folder in (found, expected)]
    out = [f"{name}: only in one" for name in names[0] ^ names[1]]
    return out + [name for name in names[0] & names[1] if not _equal(found / name, expected / name)]


def _results(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not _STREAMS & set(path.parts) and not (path.name.startswith("."))
    ]


def _equal(a: Path, b: Path) -> bool:
    if a.read_bytes() == b.read_bytes():
        return True
    if a.suffix == ".h5ad":
        first, second = ad.read_h5ad(a), ad.read_h5ad(b)
        return np.array_equal(first.X, second.X) and first.obs.equals(second.obs) and first.var.equals(second.var)
    if a.name == "study.json":  # costs of an interrupted run are not known
        first, second = (json.loads(path.read_text()) for path in (a, b))
        return {**first, **dict.fromkeys(_COSTS)} == {**second, **dict.fromkeys(_COSTS)}
    if a.suffix in {".csv", ".gz"}:
        first, second = (pd.read_csv(path).drop(columns=list(_COSTS), errors="ignore") for path in (a, b))
        return first.equals(second)
    if a.suffix == ".ckpt":  # holds times; the model that came of it is compared
        return True
    # Tables for people show costs too.
    return a.suffix in {".md", ".html", ".png"}


@dataclass(frozen=True)
class Command:
    """A command, and the folder or file that it writes.

    Attributes
    ----------
    words
        The command line.
    resume
        What is added to go on.
    """

    name: str
    words: tuple[object, ...]
    resume: tuple[str, ...] = ("--resume",)


def loaded_modules(place: Place, commands: Sequence[Command]) -> None:
    """Load what the commands load on the way, so that no process of a trial has to."""
    names = place.root / "modules.txt"
    for command in commands:
        place.run(command.words, lambda: _at_exit(names))
    for name in names.read_text().splitlines() if names.is_file() else ():
        try:
            __import__(name)
        except Exception:  # whatever stops one that is not meant to be imported alone; the commands load it themselves
            continue


def _at_exit(names: Path) -> None:
    leave = os._exit

    def noted(code: int) -> None:
        with names.open("a") as file:
            file.write("\n".join(name for name in sys.modules if not name.startswith("_")) + "\n")
        leave(code)

    os._exit = noted


def name_of(status: int) -> str:
    """Name how a process ended."""
    code = os.waitstatus_to_exitcode(status)
    return signal.Signals(-code).name if code < 0 else str(code)
