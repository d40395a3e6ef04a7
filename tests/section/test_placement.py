"""Spots off the tissue: what is wrong with their coordinates is named, and good sections pass."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from numpy.typing import NDArray
from PIL import Image
from skimage.draw import polygon2mask

import nh2st_graph as ng
from nh2st_graph import ImageError
from nh2st_graph.datasets import synthetic_tissue
from nh2st_graph.im import check_placement, find_tissue, open_slide
from nh2st_graph.section import Key, check_section
from nh2st_graph.slide import HeldImage

Floats = NDArray[np.float64]
Change = Callable[[Floats], Floats]

WIDTH, HEIGHT, MPP, PITCH = 500, 400, 8.0, 20.0
#: A wedge of tissue, off the middle and unlike its mirror images; x, y.
WEDGE = np.array([[60.0, 180.0], [330.0, 90.0], [390.0, 330.0]])


def draw(outline: Floats, width: int = WIDTH, height: int = HEIGHT) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Pink tissue on glass, and where it is."""
    tissue = np.asarray(polygon2mask((height, width), outline[:, ::-1]))
    return np.where(tissue[..., None], [190, 110, 160], [243, 242, 244]).astype(np.uint8), tissue


def array(width: int = WIDTH, height: int = HEIGHT, margin: float = 10.0) -> Floats:
    """Spots of a square array over an image."""
    x, y = np.arange(margin, width - margin, PITCH), np.arange(margin, height - margin, PITCH)
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def under(tissue: NDArray[np.bool_], spots: Floats) -> Floats:
    """The spots on tissue."""
    return spots[tissue[tuple(spots.astype(int)[:, ::-1].T)]]


@pytest.fixture
def section(tmp_path: Path) -> Callable[..., AnnData]:
    """Make a section of an image and spots."""

    def make(image: NDArray[np.uint8], spots: Floats, **entry: object) -> AnnData:
        path = tmp_path / "A1.png"
        Image.fromarray(image).save(path)
        return of_file(path, spots, MPP, **entry)

    return make


def of_file(path: Path, spots: Floats, microns_per_pixel: float, name: str = "A1", **entry: object) -> AnnData:
    names = pd.Categorical([name] * len(spots))
    obs = pd.DataFrame({"section": names, "patient": names}, [f"{name}_{i}" for i in range(len(spots))])
    metadata = {"source_image_path": str(path), "microns_per_pixel": microns_per_pixel}
    uns = {"spatial": {name: {"metadata": metadata, **entry}}}
    return AnnData(obs=obs, obsm={"spatial": np.array(spots, dtype=float)}, uns=uns)


@pytest.fixture
def wedge(section) -> AnnData:
    """A good section: the spots of an array that lie on a wedge of tissue."""
    image, tissue = draw(WEDGE)
    adata = section(image, under(tissue, array()), scalefactors={"tissue_hires_scalef": 0.3})
    assert adata.n_obs > 80
    return adata


def refused(adata: AnnData, check: Callable[[AnnData], object] = check_placement) -> str:
    with pytest.raises(ImageError) as caught:
        check(adata)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("section 'A1': ")
    return message


def quiet(adata: AnnData, caplog: pytest.LogCaptureFixture) -> bool:
    """Whether a section passes without a word."""
    check_placement(adata)
    return not caplog.text


MISTAKES: dict[str, tuple[Change, str]] = {
    "swapped": (lambda p: p[:, ::-1], r"x and y look swapped \(\d+% would be on tissue\): swap the columns of obsm"),
    "a quarter": (lambda p: p / 4, r"coordinates look scaled by 0.25 .*multiply obsm\['spatial'\] by 4;"),
    "half": (lambda p: p / 2, r"coordinates look scaled by 0.5 .*multiply obsm\['spatial'\] by 2;"),
    "hires": (
        lambda p: p * 0.3,
        r"coordinates look scaled by 0.3 .*multiply obsm\['spatial'\] by 3.333 \(1 / tissue_hires_scalef\);",
    ),
    "another": (
        lambda p: p * 0.4,
        r"coordinates look scaled by 0\.(3[6-9]|4\d?) .*multiply obsm\['spatial'\] by about 2\.[2-7];",
    ),
    "both": (
        lambda p: p[:, ::-1] / 4,
        r"x and y look swapped and scaled by 0.25 .*swap the columns of obsm\['spatial'\] and multiply it by 4;",
    ),
    "y mirrored": (
        lambda p: np.array([0, HEIGHT]) + p * [1, -1],
        r"y looks mirrored .*take obsm\['spatial'\]\[:, 1\] from the image's height",
    ),
    "x mirrored": (lambda p: np.array([WIDTH, 0]) + p * [-1, 1], r"x looks mirrored .*\[:, 0\] from .*width"),
}


class TestMistakes:
    def test_none(self, wedge, caplog):
        assert quiet(wedge, caplog)

    @pytest.mark.parametrize("name", MISTAKES)
    def test_are_named_with_how_to_mend_them(self, wedge, name):
        change, says = MISTAKES[name]
        wedge.obsm["spatial"] = change(wedge.obsm["spatial"])
        message = refused(wedge)
        assert re.search(rf"'A1': \d+% of {wedge.n_obs} spots lie on tissue; {says}", message)
        assert "check_placement=False" in message

    def test_um_instead_of_pixels(self, section):
        image, tissue = draw(WEDGE * 2, 2 * WIDTH, 2 * HEIGHT)
        adata = section(image, under(tissue, array(2 * WIDTH, 2 * HEIGHT)) * 0.6)
        next(iter(adata.uns["spatial"].values()))["metadata"]["microns_per_pixel"] = 0.6
        assert "multiply obsm['spatial'] by 1.667 (1 / microns_per_pixel)" in refused(adata)

    def test_an_array_with_its_background_tells_by_its_spots_in_tissue(self, section, caplog):
        image, tissue = draw(WEDGE)
        spots = array(HEIGHT, HEIGHT)
        adata = section(image, spots[:, ::-1])
        assert quiet(adata, caplog), "a square is the same when it is swapped"
        adata.obs[Key.obs.in_tissue] = tissue[tuple(spots.astype(int)[:, ::-1].T)].astype(int)
        assert "x and y look swapped" in refused(adata)
        adata.obsm["spatial"] = spots
        assert quiet(adata, caplog)

    def test_without_explanation_there_is_a_warning(self, wedge, caplog):
        wedge.obsm["spatial"] = wedge.obsm["spatial"] * 0.35 + [300, 0]
        check_placement(wedge)
        assert re.search(r"section 'A1': \d+% of \d+ spots lie on tissue; check obsm\['spatial'\]", caplog.text)


class TestOutside:
    """What :func:`check_section` says of spots outside the image."""

    @staticmethod
    def refused(adata: AnnData) -> str:
        message = refused(adata, lambda given: check_section(given, need=("image",)))
        assert "spots lie outside the image" in message
        assert "give the image that the coordinates were measured on" in message
        return message

    @pytest.mark.parametrize("factor", [2, 4, 16])
    def test_scaled(self, wedge, factor):
        wedge.obsm["spatial"] *= factor
        assert f"coordinates look scaled by {factor} " in self.refused(wedge)

    def test_swapped(self, section):
        outline = np.array([[100.0, 20.0], [480.0, 90.0], [450.0, 180.0], [80.0, 150.0]])
        image, tissue = draw(outline, WIDTH, 200)
        adata = section(image, under(tissue, array(WIDTH, 200))[:, ::-1])
        assert "x and y look swapped (100% would be on tissue)" in self.refused(adata)

    def test_moved_which_no_reading_explains(self, wedge):
        wedge.obsm["spatial"] += [200, 0]
        assert "look" not in self.refused(wedge)

    def test_on_a_image_that_cannot_be_decoded(self, wedge):
        path = Path(next(iter(wedge.uns["spatial"].values()))["metadata"]["source_image_path"])
        path.write_bytes(path.read_bytes()[:200])
        wedge.obsm["spatial"] *= 4
        assert "look" not in self.refused(wedge)


class TestGoodSections:
    def test_more_array_than_tissue(self, section, caplog):
        """Spots on the background too; a reading that shrinks them has more of them on tissue."""
        image, tissue = draw(np.array([[90.0, 90.0], [300.0, 90.0], [300.0, 300.0], [90.0, 300.0]]))
        adata = section(image, array(margin=15))
        assert tissue.mean() < 0.25
        assert quiet(adata, caplog)

    def test_more_tissue_than_array(self, section, caplog):
        image, _ = draw(np.array([[2.0, 2.0], [498.0, 2.0], [498.0, 398.0], [2.0, 398.0]]))
        assert quiet(section(image, array()[::3][:60] * 0.4 + 60), caplog)

    def test_tissue_that_fits_swapped_as_well(self, section, caplog):
        turns = np.linspace(0, 2 * np.pi, 60)
        image, tissue = draw(180 + 120 * np.column_stack([np.cos(turns), np.sin(turns)]), 360, 360)
        adata = section(image, under(tissue, array(360, 360)))
        assert quiet(adata, caplog)
        adata.obsm["spatial"] = adata.obsm["spatial"][:, ::-1].copy()
        assert quiet(adata, caplog)

    def test_a_image_without_tissue(self, section, caplog):
        assert quiet(section(np.full((HEIGHT, WIDTH, 3), 243, np.uint8), array()), caplog)

    def test_few_spots(self, wedge, caplog):
        few = wedge[:19].copy()
        few.obsm["spatial"] /= 4
        assert quiet(few, caplog)

    def test_spots_on_one_place(self, wedge, caplog):
        wedge.obsm["spatial"][:] = WEDGE.mean(axis=0)
        assert quiet(wedge, caplog)

    def test_synthetic_tissue(self, tmp_path, caplog):
        sections = synthetic_tissue(2, folder=tmp_path, n_rows=7, n_cols=12, microns_per_pixel=4.0)
        for adata in sections.values():
            assert quiet(adata, caplog)


class TestSmallCopy:
    """The small copy that a section brings spares the image's decoding, where it is one of that image."""

    @pytest.fixture
    def brings(self, wedge) -> Callable[[float], AnnData]:
        (entry,) = wedge.uns["spatial"].values()

        def bring(scale: float) -> AnnData:
            image = Image.open(entry["metadata"]["source_image_path"]).resize((WIDTH // 2, HEIGHT // 2))
            entry["images"] = {"hires": np.asarray(image)}
            entry["scalefactors"] = {"tissue_hires_scalef": scale}
            return wedge

        return bring

    def test_is_looked_at(self, brings, monkeypatch, caplog):
        monkeypatch.setattr(HeldImage, "thumbnail", lambda *_: pytest.fail("decoded"))
        adata = brings(0.5)
        assert quiet(adata, caplog)
        adata.obsm["spatial"] = adata.obsm["spatial"][:, ::-1]
        assert "x and y look swapped" in refused(adata)

    def test_of_another_image_is_not(self, brings, caplog):
        assert quiet(brings(0.25), caplog)


class TestRealSections:
    """HER2+ tumours: a wedge of tissue in an image that is nearly square."""

    @pytest.fixture(scope="class")
    def read(self, shared_data) -> Callable[[str], AnnData]:
        folder = shared_data / "her2st" / "data"

        def read(name: str) -> AnnData:
            spots = pd.read_csv(folder / "ST-spotfiles" / f"{name}_selection.tsv", sep="\t")
            spots = spots.loc[spots["selected"] == 1, ["pixel_x", "pixel_y"]].to_numpy(float)
            path = next((folder / "ST-imgs" / name[0] / name).glob("*.jpg"))
            with open_slide(path) as slide:
                _, image = find_tissue(slide, 0.69, 1000)
                scale = max(image.shape) / max(slide.sizes[0])
            small = {"images": {"hires": image}, "scalefactors": {"tissue_hires_scalef": scale}}
            return of_file(path, spots, 0.69, **small)

        return read

    @pytest.mark.parametrize("name", ["B4", "C3", "C4", "C5", "C6"])
    def test_pass_as_they_are_and_not_swapped_nor_scaled(self, read, name, caplog):
        adata = read(name)
        assert quiet(adata, caplog)
        spots = adata.obsm["spatial"]
        adata.obsm["spatial"] = spots[:, ::-1]
        assert "x and y look swapped (9" in refused(adata)
        adata.obsm["spatial"] = spots / 4
        assert "multiply obsm['spatial'] by 4;" in refused(adata)
        adata.obsm["spatial"] = spots * 2
        assert "coordinates look scaled by 2 " in refused(adata, lambda given: check_section(given, need=("image",)))


class TestInFeatures:
    """:func:`nh2st_graph.im.features` looks once: before it encodes, and not where the cache has all."""

    @staticmethod
    def features(adata: AnnData, **options: object) -> None:
        ng.im.features(adata, "squidpy:summary", 64.0, progress=False, **options)

    def test_refuses_before_anything_is_encoded(self, wedge, own_cache):
        wedge.obsm["spatial"] /= 4
        with pytest.raises(ImageError, match="coordinates look scaled by"):
            self.features(wedge)
        assert Key.obsm.image not in wedge.obsm
        assert not own_cache.exists()

    def test_may_be_told_not_to(self, wedge):
        wedge.obsm["spatial"] /= 4
        self.features(wedge, check_placement=False)
        assert wedge.obsm[Key.obsm.image].shape[0] == wedge.n_obs
        self.features(wedge)

    def test_on_another_image(self, wedge, tmp_path):
        """The section's own small copy says nothing of an image that it is not of."""
        Image.fromarray(draw(WEDGE[:, ::-1], WIDTH, HEIGHT)[0]).save(tmp_path / "other.png")
        self.features(wedge)
        with pytest.raises(ImageError, match="x and y look swapped"):
            self.features(wedge, img=str(tmp_path / "other.png"))
