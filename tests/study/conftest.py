"""Study files, and one small study that has run on two processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from nh2st_graph.config import Config
from nh2st_graph.study import Outcome, PlannedRun, Study, StudyResult, read_study, run_study

BASE = "base.yaml"
GENES = [f"{kind}{i:02d}" for kind in ("OWN", "NBR", "NOISE") for i in (1, 2, 3)]


@pytest.fixture(scope="session")
def study_file(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a study file beside a base of three small sections, nine genes and one epoch."""

    def write(name: str = "tiny", **keys: Any) -> Path:
        folder = tmp_path_factory.mktemp("study")
        (folder / "panel.txt").write_text("\n".join(GENES) + "\n")
        # Chosen genes would have every process compile scanpy's functions.
        config = tiny_config.override([f"data.panel={folder / 'panel.txt'}", "train.max_epochs=1"])
        (folder / BASE).write_text(config.to_yaml())
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"base": BASE, **keys}, sort_keys=False))
        return path

    return write


class Seen(list[tuple[str, str | None]]):
    """Remembers what a study told of: runs, and what became of them (``"begun"``, None, or why they failed)."""

    def __call__(self, run: PlannedRun, outcome: Outcome | None) -> None:
        self.append((str(run), "begun" if outcome is None else outcome.reason))


@pytest.fixture(scope="session")
def tiny_study(study_file: Callable[..., Path]) -> Study:
    """Two variants that run, the second with figures of its runs, and one whose panel is missing, two seeds."""
    variants = {
        "no neighbours": {"model.neighbours": False, "evaluate.figures": True},
        "no panel": {"data.panel": "nowhere.txt"},
    }
    return read_study(study_file(seeds=[0, 1], set={"evaluate.figures": False}, variants=variants))


@pytest.fixture(scope="session")
def finished(tiny_study: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyResult, Path, Seen]:
    """``tiny_study`` on two processes: its result, folder, and what it told. Shared: copy what you change."""
    folder, seen = tmp_path_factory.mktemp("studies") / "tiny", Seen()
    return run_study(tiny_study, folder, jobs=2, watch=seen), folder, seen
