"""A few of the inputs of ``benchmarks/fuzz``: each is read and right, or refused by an error of ours."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from .examples import draws
from .fuzz import ACCEPTED, REFUSED, seeds, try_input

#: Inputs that once ended in a traceback, by their numbers.
FOUND = {
    "embeddings h5": (19, 733, 3589),
    "hest patches": (67, 697, 1516),
    "h5ad": (175,),
    "image tif": (288, 21375),
    "anndata": (1352, 3494),
    "visium_hd": (1598, 4937, 19178),
    "spatialdata": (139, 16749),
    "contract": (2624,),
}
KINDS = (
    *("her2st", "visium", "visium_hd", "hest", "hest patches", "stimage", "stnet", "h5ad", "anndata"),
    *("configuration", "panel txt", "panel json", "panel csv", "image png", "image jpg", "image tif", "image bmp"),
    *("embeddings csv", "embeddings npz", "embeddings h5", "contract", "spatialdata", "visium mtx", "patients"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return seeds(tmp_path_factory.mktemp("seeds"))


def test_kinds(made):
    assert tuple(made) == KINDS


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_files_are_read_or_refused(made, tmp_path, kind):
    seed = made[kind]
    assert seed.check(seed.read(seed.root)) is None, "as they were"
    for number in (0, 1, *FOUND.get(kind, ())):
        outcome, told = try_input(seed, random.Random(number), tmp_path / "tried")
        assert outcome in {ACCEPTED, REFUSED}, told


@pytest.mark.filterwarnings("ignore")
@draws(25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rng=st.randoms(use_true_random=False))
def test_sections_in_memory(made, tmp_path, rng):
    outcome, told = try_input(made["contract"], rng, tmp_path / "tried")
    assert outcome in {ACCEPTED, REFUSED}, told
