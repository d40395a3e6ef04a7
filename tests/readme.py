"""Blocks of the README and the guide, and a folder in which they run: parts of real sections, settings of seconds."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shlex
import shutil
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
#: Pages whose examples go on where the README's end, in this order. (Tutorials run when the documentation is built.)
GUIDE = ("shell", "python", "encoders", "studies", "large", "numbers")
TEXT = "\n".join([README, *((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8") for page in GUIDE)])

#: What makes a run on a few dozen spots take seconds, and needs no download.
QUICK = (
    "data.panel=hvg:20",
    "features.encoder=squidpy:summary",
    "train.max_epochs=1",
    "train.folds=2",
    "train.device=cpu",
    "train.progress=false",
)
#: Tissue around the spots of a section of Visium, in pixels.
AROUND_PX = 60
#: Sections of Visium in the folder.
SECTIONS = ("A1", "B1", "C1", "D1")
#: The scores of ``runs/c6`` as training left them; those in the run itself are of ``evaluate``.
TRAINED = "c6_trained.json"
#: Studies are hundreds of runs, and have tests of their own.
STUDIES = {"ablate", "benchmark"}


def python_blocks() -> list[str]:
    """Blocks that are marked as Python, in order; one that stands twice is one."""
    return [*dict.fromkeys(re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL))]


def shell_commands() -> list[list[str]]:
    """Arguments of each ``nh2st-graph`` command, its lines joined, in order; one that stands twice is one."""
    joined = TEXT.replace("\\\n", " ")
    found = (shlex.split(line) for line in re.findall(r"^ {4}nh2st-graph (.*)$", joined, re.MULTILINE))
    return [*map(list, dict.fromkeys(map(tuple, found)))]


def set_keys(command: list[str]) -> list[str]:
    """Assignments that a command makes by ``--set``."""
    return [after for before, after in itertools.pairwise(command) if before == "--set"]


def quick(command: list[str]) -> list[str]:
    """Add the settings that take seconds to a command that takes settings."""
    return [*command, *(part for change in QUICK for part in ("--set", change))] if set_keys(command) else command


def run(command: list[str]) -> None:
    """Run a command in this process; it must end well."""
    from nh2st_graph.cli import main

    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 0, command


def follow_the_readme(place: Path, shared_data: Path, her2st: Path) -> None:
    """Make the folder that the README describes, and type its commands there, those of studies left out."""
    from nh2st_graph import read

    from .slides import write_pyramid

    place.mkdir()
    (place / "configs").symlink_to(ROOT / "configs")
    spots = list(read.visium_section(shared_data / "visium_tiny").obs_names)
    for i, name in enumerate(SECTIONS):
        image = her2st / "data" / "ST-imgs" / "C" / f"C{3 + i}" / f"C{3 + i}.jpg"
        part_of_a_section(shared_data / "visium_tiny", image, place / "sections" / name, spots[i::4])
    shutil.copytree(her2st, place / "her2st")
    read.write_spatialdata(read.sections("visium", place / "sections", ["D1"])["D1"], place / "store.zarr")
    (place / "panel.txt").write_text("GNAS\nERBB2\nFASN\n")
    write_pyramid(place / "slide.tif", 1200, 1.0)
    with contextlib.chdir(place):
        for command in shell_commands():
            if command[0] not in STUDIES:
                if command[:2] == ["evaluate", "runs/c6"]:
                    Path("runs/c6/metrics.json").rename(TRAINED)
                with contextlib.ExitStack() as quietly:
                    if not ({"runs/c6"} & {*command} and command[0] == "train"):
                        # Figures and the page of one run are looked at.
                        for drawn in ("write_figures", "write_report"):
                            quietly.enter_context(patch(f"nh2st_graph.tl._run.{drawn}"))
                    run(quick(command))


def part_of_a_section(source: Path, image: Path, target: Path, spots: list[str]) -> None:
    """Copy a Space Ranger folder with 25 of its spots; its image is black, so another is its ``slide.tif``."""
    (target / "spatial").mkdir(parents=True)
    for path in source.glob("*.h5"):
        (target / path.name).write_bytes(path.read_bytes())
    factors = json.loads((source / "spatial" / "scalefactors_json.json").read_text())
    scale = factors["tissue_hires_scalef"] / 2  # half of its resolution
    factors = {key: value * scale for key, value in factors.items() if "diameter" in key} | {
        "tissue_hires_scalef": 1.0,
        "tissue_lowres_scalef": 0.3,
    }
    (target / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors))
    positions = pd.read_csv(source / "spatial" / "tissue_positions_list.csv", header=None)
    # The spots of the real section are scattered; here they are next to each other, five in each of five rows.
    block = positions[2].between(36, 40) & positions[3].between(60, 69)
    positions = pd.concat([positions[block], positions[~block]])
    positions[0] = [*spots, *positions.loc[~positions[0].isin(spots), 0]]
    positions[1] = positions[0].isin(spots).astype(int)
    positions[[4, 5]] = np.rint(positions[[4, 5]] * scale).astype(int)
    kept = positions.loc[positions[1] == 1, [4, 5]]
    first, last = (kept.min() - AROUND_PX).to_numpy(), (kept.max() + AROUND_PX).to_numpy()
    positions[[4, 5]] -= first
    positions.to_csv(target / "spatial" / "tissue_positions_list.csv", header=False, index=False)
    with Image.open(image) as tissue:
        small = tissue.convert("RGB").resize(tuple((last - first)[::-1].tolist()))
    small.save(target / "slide.tif")
    small.save(target / "spatial" / "tissue_hires_image.png")
    small.resize((3 * small.width // 10, 3 * small.height // 10)).save(target / "spatial" / "tissue_lowres_image.png")
