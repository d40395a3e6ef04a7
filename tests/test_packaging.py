"""What is published: the packages and recipes of ``.packaging`` say what ``pyproject.toml`` says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RECIPE = (ROOT / ".packaging" / "recipe.yaml").read_text(encoding="utf-8")

#: Names that conda-forge has for packages of the index.
CONDA = {
    "huggingface-hub": "huggingface_hub",
    "igraph": "python-igraph",
    "matplotlib": "matplotlib-base",
    "torch": "pytorch",
    "torch-geometric": "pytorch_geometric",
}


def test_the_recipe_needs_what_the_package_needs():
    run = yaml.safe_load(re.sub(r"\$\{\{.*?\}\}", "0", RECIPE))["requirements"]["run"]
    wanted = [Requirement(each) for each in PROJECT["dependencies"]]
    expected = {f"{CONDA.get(each.name, each.name)} {each.specifier}" for each in wanted}
    assert set(run) - {"tqdm"} == expected | {"python " + ",".join(PROJECT["requires-python"].split(","))}


def test_the_recipe_is_of_this_version():
    assert f'version: "{PROJECT["version"]}"' in RECIPE


def test_the_container_installs_extras_that_there_are():
    text = (ROOT / ".packaging" / "Containerfile").read_text(encoding="utf-8")
    (extras,) = re.findall(r"^ARG EXTRAS=(.*)$", text, re.MULTILINE)
    assert set(extras.split(",")) == set(PROJECT["optional-dependencies"]) - {"scatter"}
