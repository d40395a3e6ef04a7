"""Study files, and one small study that has run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from anndata import AnnData

from nh2st_graph import read, tl
from nh2st_graph.config import Config
from nh2st_graph.study import Outcome, PlannedRun, Study, StudyResult, read_study, run_study

from ..tissue import without_truth

BASE = "base.yaml"
GENES = [f"{kind}{i:02d}" for kind in ("OWN", "NBR", "NOISE") for i in (1, 2, 3)]
#: A method as a user may write it, beside the study file.
MINE = """
import numpy as np
from sklearn.cross_decomposition import PLSRegression

from nh2st_graph.models import Estimator


class Pls(Estimator):
    def fit(self, sections):
        x, y = (np.vstack([section[name] for section in sections]) for name in ("x", "y"))
        self.model = PLSRegression(2).fit(x, y)

    def predict(self, section):
        return self.model.predict(section.x.numpy())
"""


@pytest.fixture(scope="session")
def sections(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> dict[str, AnnData]:
    """Three small sections. They are shared: copy what you change."""
    drawn = tl.load_sections(tiny_config, tmp_path_factory.mktemp("tissue"))
    return {name: without_truth(section) for name, section in drawn.items()}


@pytest.fixture(scope="session")
def root(sections: dict[str, AnnData], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sections as files: every run would draw its own synthetic ones, which takes longer than the rest of it."""
    folder = tmp_path_factory.mktemp("sections")
    for name, section in sections.items():
        read.write_h5ad(section, folder / f"{name}.h5ad")
    return folder


@pytest.fixture(scope="session")
def study_file(tiny_config: Config, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a study file beside a base of three small sections, nine genes and one epoch."""

    def write(name: str = "tiny", **keys: Any) -> Path:
        folder = tmp_path_factory.mktemp("study")
        (folder / "panel.txt").write_text("\n".join(GENES) + "\n")
        # Chosen genes would have every process compile scanpy's functions.
        data = {"format": "h5ad", "root": str(root), "panel": str(folder / "panel.txt")}
        changes = {"data": data, "train": {"max_epochs": 1, "folds": 2}, "evaluate.figures": False}
        changes["model.closed_form"] = False  # the network alone
        (folder / BASE).write_text(tiny_config.change(changes).to_yaml())
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"base": BASE, **keys}, sort_keys=False))
        return path

    return write


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The present folder, with a file of methods."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("here")
        (folder / "methods_of_a_test.py").write_text(MINE)
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        yield folder


class Seen(list[tuple[str, str | None]]):
    """Remembers what a study told of: runs, and what became of them (``"begun"``, None, or why they failed)."""

    def __call__(self, run: PlannedRun, outcome: Outcome | None) -> None:
        self.append((str(run), "begun" if outcome is None else outcome.reason))


@pytest.fixture(scope="session")
def tiny_study(study_file: Callable[..., Path]) -> Study:
    """Two variants that run, and one whose panel is missing, two seeds."""
    variants = {
        "no neighbours": {"model.neighbours": False, "evaluate.baselines": False},
        "no panel": {"data.panel": "nowhere.txt"},
    }
    return read_study(study_file(seeds=[0, 1], variants=variants))


@pytest.fixture(scope="session")
def finished(tiny_study: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyResult, Path, Seen]:
    """``tiny_study``: its result, folder, and what it told. Shared: copy what you change."""
    folder, seen = tmp_path_factory.mktemp("studies") / "tiny", Seen()
    return run_study(tiny_study, folder, jobs=1, watch=seen), folder, seen
