from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData
from numpy.typing import NDArray
from PIL import Image

import nh2st_graph as ng
from nh2st_graph import ConfigError, ImageError
from nh2st_graph.im._stain import as_reference, coarse_tissue, stain_digest, stain_values
from nh2st_graph.section import Key, open_image

METHODS = ("reinhard", "macenko")
#: Resolution at which stains are measured, so that squidpy sees the same pixels.
UM = 4.0


#: Windows of these sections that have tissue and glass, from the top left, in pixels of this resolution.
WINDOWS = {"B4": (240, 90), "C3": (210, 30)}
HEIGHT, WIDTH = 180, 240


def scan(root: Path, name: str) -> NDArray[np.uint8]:
    """A part of a real section at 4 um per px; the scan of HER2ST has 0.69."""
    (path,) = (root / "her2st" / "data" / "ST-imgs" / name[0] / name).glob("*.jpg")
    top, left = WINDOWS[name]
    with Image.open(path) as image:
        image.draft("RGB", (image.width // 8, image.height // 8))
        small = image.resize((image.width * 11 // 16, image.height * 11 // 16), Image.Resampling.BOX)
    return np.asarray(small)[top : top + HEIGHT, left : left + WIDTH]


@pytest.fixture(scope="module")
def scans(shared_data: Path) -> dict[str, NDArray[np.uint8]]:
    return {name: scan(shared_data, name) for name in ("B4", "C3")}


@pytest.fixture
def sections(make_section, scans) -> dict[str, AnnData]:
    """Parts of two real sections, spots all over them."""
    y, x = np.mgrid[20 : HEIGHT - 19 : 20, 20 : WIDTH - 19 : 40]
    centres = np.stack([x.ravel(), y.ravel()], axis=1) * UM
    return {name: make_section(UM, centres, image, name) for name, image in scans.items()}


def normalised_by_squidpy(section: AnnData, reference, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What squidpy makes of the whole image, with our mask of the tissue."""
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel, Labels2DModel
    from squidpy.experimental.im import normalize_stains

    with open_image(section) as slide:
        mask = coarse_tissue(slide, UM).mask
    assert mask.shape == image.shape[:2]
    assert 0.3 < mask.mean() < 0.9
    labels = Labels2DModel.parse(mask.astype(np.uint8), dims=("y", "x"))
    data = SpatialData(
        images={"he": Image2DModel.parse(np.moveaxis(image, -1, 0), dims=("c", "y", "x"))}, labels={"he_tissue": labels}
    )
    made = normalize_stains(data, "he", reference, inplace=False)
    return np.asarray(made.transpose("y", "x", "c"))


@pytest.mark.parametrize("method", METHODS)
def test_patches_equal_squidpys_normalised_image(sections, scans, method):
    """To one grey level, on glass and on tissue; patches of whole pixels, so that nothing is interpolated."""
    reference = ng.im.stain_reference(sections["C3"], method)
    expected = normalised_by_squidpy(sections["B4"], reference, scans["B4"])
    found = list(ng.im.patches(sections["B4"], 40 * UM, 40, stain=reference))
    plain = list(ng.im.patches(sections["B4"], 40 * UM, 40))
    most = 0
    for (x, y), patch, before in zip(sections["B4"].obsm[Key.obsm.spatial].astype(int), found, plain, strict=True):
        whole = expected[y - 20 : y + 20, x - 20 : x + 20].astype(int)
        assert np.abs(patch - whole).max() <= 1
        most = max(most, int(np.abs(patch.astype(int) - before).max()))
    assert most > 2  # something was normalised, if only by the basis of the two stains


@pytest.mark.parametrize("method", METHODS)
def test_glass_stays_as_it_is(sections, method):
    with open_image(sections["B4"]) as slide:
        tissue = coarse_tissue(slide, UM)
    blank = tissue.fraction(sections["B4"].obsm[Key.obsm.spatial], 45) == 0
    assert blank.sum() > 3
    reference = ng.im.stain_reference(sections["C3"], method)
    rows = np.flatnonzero(blank)
    plain = list(ng.im.patches(sections["B4"], 160, 40, rows))
    assert np.array_equal(list(ng.im.patches(sections["B4"], 160, 40, rows, stain=reference)), plain)


@pytest.mark.parametrize("method", METHODS)
def test_beyond_the_border_is_white(make_section, scans, method):
    """Also where tissue reaches the border."""
    image = scans["C3"]
    column = int(np.argmin(image[0].sum(axis=1)))
    section = make_section(UM, np.array([[column + 0.0, 0.0], [100.0, 100.0]]) * UM, image, "edge")
    patch = next(iter(ng.im.patches(section, 160, 40, stain=ng.im.stain_reference(section, method))))
    assert (patch[:20] == 255).all()


@pytest.mark.parametrize("method", METHODS)
def test_own_reference_changes_little(sections, method):
    plain = np.stack(list(ng.im.patches(sections["C3"], 160, 40))).astype(int)
    reference = ng.im.stain_reference(sections["C3"], method)
    assert np.abs(np.stack(list(ng.im.patches(sections["C3"], 160, 40, stain=reference))) - plain).max() <= 2


@pytest.mark.parametrize("method", METHODS)
def test_undoes_another_scanner(make_section, scans, sections, method):
    """Of a section seen by another scanner, patches come nearer to those of the first."""
    image = scans["C3"]
    density = -np.log((image + 1.0) / 256)
    seen = np.clip(256 * np.exp(-density * [0.8, 1.1, 0.9]) - 1, 0, 255).astype(np.uint8)
    other = make_section(UM, sections["C3"].obsm[Key.obsm.spatial] * UM, seen, "other")
    reference = ng.im.stain_reference(sections["C3"], method)
    with open_image(sections["C3"]) as slide:
        inner = np.flatnonzero(coarse_tissue(slide, UM).fraction(sections["C3"].obsm[Key.obsm.spatial], 45) == 1)
    truth, before, after = (
        np.stack(list(ng.im.patches(section, 160, 40, inner, stain=stain))).astype(float)
        for section, stain in ((sections["C3"], None), (other, None), (other, reference))
    )
    assert np.abs(after - truth).mean() < 0.8 * np.abs(before - truth).mean()


@pytest.mark.parametrize("method", METHODS)
def test_reference_prefers_no_section(sections, method):
    both = ng.im.stain_reference(sections, method)
    assert both == ng.im.stain_reference(dict(reversed(sections.items())), method)
    assert both != ng.im.stain_reference(sections["B4"], method)
    assert both.method == method


@pytest.mark.parametrize("method", METHODS)
def test_reference_survives_json(sections, method):
    reference = ng.im.stain_reference(sections["C3"], method)
    text = json.dumps({name: np.asarray(value).tolist() for name, value in stain_values(reference).items()})
    assert as_reference(json.loads(text)) == reference
    assert stain_digest(as_reference(json.loads(text))) == stain_digest(reference)
    first = next(iter(ng.im.patches(sections["B4"], 160, 40, [30], stain=json.loads(text))))
    assert np.array_equal(first, next(iter(ng.im.patches(sections["B4"], 160, 40, [30], stain=reference))))


def test_methods_have_other_digests(sections):
    assert len({stain_digest(ng.im.stain_reference(sections["C3"], method)) for method in METHODS}) == 2


def test_refuses_what_is_no_reference(sections):
    with pytest.raises(ConfigError, match="stain_reference"):
        next(iter(ng.im.patches(sections["C3"], 160, 40, stain={"method": "macenko"})))
    with pytest.raises(ConfigError, match="macenko"):
        ng.im.stain_reference(sections["C3"], "macenco")


def test_refuses_images_without_a_stain(make_section, sections):
    glass = make_section(UM, np.full((3, 2), 200.0), np.full((100, 100, 3), 240, np.uint8), "glass")
    with pytest.raises(ImageError, match=r"'glass'.*tissue"):
        ng.im.stain_reference(glass)
    flat = np.full((200, 200, 3), 240, np.uint8)
    flat[50:150, 50:150] = (60, 160, 70)
    green = make_section(UM, np.full((3, 2), 400.0), flat, "green")
    with pytest.raises(ImageError, match=r"green.*stain"):
        ng.im.stain_reference(green, "macenko")
    with pytest.raises(ImageError, match=r"'green'.*stain"):
        next(iter(ng.im.patches(green, 160, 40, stain=ng.im.stain_reference(sections["C3"], "macenko"))))
