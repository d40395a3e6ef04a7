"""Any slide or image behind one interface."""

from __future__ import annotations

import json
import sys
import types

import numpy as np
import pytest
from PIL import Image

from nh2st_graph import ImageError
from nh2st_graph.slide import HeldImage, TiffSlide, WsiSlide, open_slide, open_tiff, scan_origin, slide_size, thumbnail

from ..slides import halved, philips, tissue_image, write_pyramid

IMAGE = tissue_image(300)


@pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
def test_images_without_windows_are_held(tmp_path, ending):
    path = tmp_path / f"slide.{ending}"
    Image.fromarray(IMAGE).save(path, dpi=(50_800, 50_800))
    assert slide_size(path) == (300, 300)
    with open_slide(path) as slide:
        assert isinstance(slide, HeldImage)
        assert slide.sizes == [(300, 300)]
        assert slide.microns_per_pixel == pytest.approx(0.5, rel=1e-3)
        source, place = slide.region(0, (10, 10, 20, 20))
        assert (source.size, place) == ((300, 300), (0, 0))
        assert slide.region(0, (0, 0, 9, 9))[0] is source
    with pytest.raises(ValueError, match="closed"):
        source.getpixel((0, 0))


def test_a_large_image_that_is_held_is_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("nh2st_graph.slide._pillow._MANY_PIXELS", 1000)
    Image.fromarray(IMAGE).save(tmp_path / "slide.png")
    with open_slide(tmp_path / "slide.png") as slide:
        assert not caplog.messages
        slide.region(0, (0, 0, 5, 5))
    assert "not tiled, so all of its 300 x 300 px" in caplog.text


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_a_held_image_above_pillows_limit(tmp_path, monkeypatch, ending):
    path = tmp_path / f"slide.{ending}"
    Image.fromarray(IMAGE).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with open_slide(path) as slide:
        assert isinstance(slide, HeldImage)
        np.testing.assert_array_equal(np.asarray(slide.region(0, (0, 0, 9, 9))[0]), IMAGE)
        assert slide.thumbnail(100)[0].shape == (100, 100, 3)


@pytest.mark.parametrize("band", [2**25, 900], ids=["whole", "bands of one row"])
@pytest.mark.parametrize("side", [75, 40, 301, 1000])
def test_thumbnail_of_a_pyramid_is_that_of_the_image(tmp_path, monkeypatch, band, side):
    monkeypatch.setattr("nh2st_graph.slide._base._BAND_PIXELS", band)
    path, flat = write_pyramid(tmp_path / "slide.tif", 0, image=IMAGE, tile=32), tmp_path / "slide.png"
    Image.fromarray(IMAGE).save(flat)
    with open_slide(path) as slide:
        small, scale = slide.thumbnail(side)
    expected, expected_scale = thumbnail(flat, side)
    assert small.shape == expected.shape
    assert scale == expected_scale
    off = np.abs(small.astype(int) - expected).mean()
    assert off < 3
    assert np.abs(np.roll(small, 2, axis=1).astype(int) - expected).mean() > 2 * off + 0.5


def test_a_thumbnail_reads_the_coarsest_level_that_is_fine_enough(tmp_path):
    path = write_pyramid(tmp_path / "slide.tif", 1024, tile=64)
    with open_slide(path) as slide:
        slide.thumbnail(200)
        assert slide.n_decoded == 16  # of the level of 256 px


@pytest.fixture
def no_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "wsidata", None)


@pytest.mark.usefixtures("no_extra")
@pytest.mark.parametrize(
    ("suffix", "more"),
    [
        *((suffix, "") for suffix in (".ndpi", ".mrxs", ".svs", ".SVS", ".svslide", ".bif", ".czi", ".dcm", ".dicom")),
        (".isyntax", " pyisyntax"),
        (".vsi", " scyjava"),
    ],
)
def test_formats_of_scanners_name_the_extra(tmp_path, suffix, more):
    path = tmp_path / f"slide{suffix}"
    path.write_bytes(b"something")
    for call in (slide_size, lambda path: open_slide(path).__enter__()):
        with pytest.raises(
            ImageError, match=rf'no installed reader opens {suffix.lower()}; pip install "nh2st-graph\[wsi\]"{more}$'
        ):
            call(path)


@pytest.mark.usefixtures("no_extra")
def test_the_extra_is_advised_for_tiff_alone(tmp_path):
    for name, content in {"slide.tif": b"II*\0", "slide.png": b"text"}.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=r'if a scanner wrote this TIFF, .*pip install "nh2st-graph\[wsi\]"$'):
        slide_size(tmp_path / "slide.tif")
    with pytest.raises(ImageError, match=r"PNG or TIFF$"):
        slide_size(tmp_path / "slide.png")


@pytest.mark.usefixtures("no_extra")
def test_aperio_is_read_without_the_extra(tmp_path):
    path = write_pyramid(tmp_path / "slide.svs", 512, apart=True, description="Aperio Image\n512x512|MPP = 0.5")
    with open_slide(path) as slide:
        assert isinstance(slide, TiffSlide)
        assert slide.microns_per_pixel == 0.5


@pytest.mark.parametrize(
    ("content", "says"), [(None, "does not exist"), (b"text", "cannot be read"), (b"II*\0", "cannot be read")]
)
def test_what_is_no_image(tmp_path, content, says):
    path = tmp_path / "slide.tif"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=rf"slide\.tif.*{says}") as caught:
        slide_size(path)
    assert "\n" not in str(caught.value)


class _Reader:
    """Stands in for scanners' formats, which nothing writes: wsidata's order of arguments and its units."""

    mpp: float | None = 0.25

    def __init__(self, image: np.ndarray) -> None:
        self.levels = [image, halved(image), halved(halved(image))]
        shapes = [list(level.shape[:2]) for level in self.levels]
        self._about = {"level_shape": shapes, "level_downsample": [1.0, 2.0, 4.0]}
        self.closed = False

    @property
    def properties(self) -> types.SimpleNamespace:
        return types.SimpleNamespace(**self._about, mpp=self.mpp)

    def get_region(self, x, y, width, height, level=0):
        """``x`` and ``y`` at full resolution, the size at the level's."""
        factor = 2**level
        assert x % factor == y % factor == 0
        return self.levels[level][y // factor : y // factor + height, x // factor : x // factor + width]

    def detach_reader(self):
        self.closed = True


@pytest.fixture
def reader(monkeypatch) -> _Reader:
    reader = _Reader(np.ascontiguousarray(IMAGE[:, :200]))

    def open_wsi(path, store="auto"):
        assert store is None, "nothing is written beside a slide"
        if path.read_bytes().endswith(b"broken"):
            raise ValueError("Cannot open image\nusing any of the readers.")
        return types.SimpleNamespace(reader=reader)

    module = types.ModuleType("wsidata")
    module.__spec__ = types.SimpleNamespace(name="wsidata")
    module.open_wsi = open_wsi
    monkeypatch.setitem(sys.modules, "wsidata", module)
    return reader


class TestWithTheExtra:
    def test_levels_windows_and_scale(self, reader, tmp_path):
        (tmp_path / "slide.mrxs").write_bytes(b"slide")
        assert slide_size(tmp_path / "slide.mrxs") == (200, 300)
        reader.closed = False
        with open_slide(tmp_path / "slide.mrxs") as slide:
            assert isinstance(slide, WsiSlide)
            assert slide.sizes == [(200, 300), (100, 150), (50, 75)]
            assert slide.microns_per_pixel == 0.25
            for level, image in enumerate(reader.levels):
                window, place = slide.region(level, (11, 20, 31, 47))
                assert place == (11, 20)
                np.testing.assert_array_equal(np.asarray(window), image[20:47, 11:31])
            assert slide.thumbnail(60)[0].shape == (60, 40, 3)
            assert not reader.closed
        assert reader.closed

    def test_several_scenes_are_refused(self, reader, tmp_path):
        """Readers of .czi and .vsi show one of them, and say nothing."""
        reader._about |= {"n_scenes": 2, "scene_names": ["left", "right"]}
        (tmp_path / "slide.czi").write_bytes(b"slide")
        with (
            pytest.raises(ImageError, match=r"slide\.czi holds 2 scenes \(left, right\)"),
            open_slide(tmp_path / "slide.czi"),
        ):
            pass
        assert reader.closed

    @pytest.mark.parametrize(
        ("sides", "expected"), [(("0.5", "0.5"), 0.5), (("0.5", "1.0"), None), (("0.5", "?"), 0.25), (("0.5",), 0.25)]
    )
    def test_both_sides_of_a_pixel_are_looked_at(self, reader, tmp_path, sides, expected):
        """wsidata's one number is that of one side."""
        named = {f"openslide.mpp-{axis}": side for axis, side in zip("xy", sides, strict=False)}
        reader._about["raw"] = json.dumps(named)
        (tmp_path / "slide.mrxs").write_bytes(b"slide")
        with open_slide(tmp_path / "slide.mrxs") as slide:
            assert slide.microns_per_pixel == expected

    @pytest.mark.parametrize(("left_out", "expected"), [("", (1000, 2000)), ("height", (0, 0))])
    def test_where_qupath_counts_from(self, reader, tmp_path, left_out, expected):
        """QuPath cuts a slide to its bounds if OpenSlide states all four."""
        bounds = {"x": "1000", "y": "2000", "width": "100", "height": "150"}
        reader._about["raw"] = json.dumps({f"openslide.bounds-{k}": v for k, v in bounds.items() if k != left_out})
        (tmp_path / "slide.mrxs").write_bytes(b"slide")
        assert scan_origin(tmp_path / "slide.mrxs") == expected

    @pytest.mark.usefixtures("reader")
    @pytest.mark.parametrize(("suffix", "advice"), [(".ndpi", "copy it again"), (".isyntax", "pip install pyisyntax")])
    def test_a_slide_that_none_of_its_readers_opens(self, tmp_path, suffix, advice):
        path = tmp_path / f"slide{suffix}"
        path.write_bytes(b"broken")
        with pytest.raises(ImageError, match=rf"{suffix}: no installed reader opens it \(Cannot .*\); {advice}, or"):
            slide_size(path)

    @pytest.mark.parametrize("content", [None, b"II*\0"], ids=["without scale", "unreadable"])
    def test_a_tiff_that_tells_less_to_tifffile(self, reader, tmp_path, content):
        path = write_pyramid(tmp_path / "slide.tif", 256)
        if content is not None:
            path.write_bytes(content)
        with open_slide(path) as slide:
            assert isinstance(slide, WsiSlide)
            assert slide.microns_per_pixel == 0.25
            assert not reader.closed
        assert reader.closed

    def test_a_tiff_that_tells_its_scale_is_ours(self, reader, tmp_path):
        with open_slide(write_pyramid(tmp_path / "slide.tif", 256, 0.5)) as slide:
            assert isinstance(slide, TiffSlide)
            assert slide.microns_per_pixel == pytest.approx(0.5)
        assert not reader.closed, "never opened"

    @pytest.mark.parametrize("mpp", [None, float("nan"), 352.8], ids=["none", "not a number", "a screen's"])
    def test_a_tiff_whose_scale_nobody_knows_is_ours(self, reader, tmp_path, mpp):
        reader.mpp = mpp
        with open_slide(write_pyramid(tmp_path / "slide.tif", 256)) as slide:
            assert isinstance(slide, TiffSlide)
            assert slide.microns_per_pixel is None
            assert reader.closed
            slide.region(0, (0, 0, 9, 9))

    @pytest.mark.usefixtures("reader")
    def test_a_tiff_that_only_tifffile_opens_is_ours(self, tmp_path):
        path = write_pyramid(tmp_path / "slide.tif", 256)
        with path.open("ab") as file:
            file.write(b"broken")
        with open_slide(path) as slide:
            assert isinstance(slide, TiffSlide)


def test_the_extra_itself_reads_what_we_read(tmp_path):
    """OpenSlide's pixels, levels and scale are those of our reader of TIFF."""
    path = write_pyramid(tmp_path / "slide.tif", 1024, 0.5, compression="jpeg", apart=True)
    theirs = WsiSlide(path)
    with open_slide(path) as ours:
        assert isinstance(ours, TiffSlide)
        assert theirs.sizes == ours.sizes
        assert theirs.microns_per_pixel == pytest.approx(ours.microns_per_pixel)
        for level in range(len(ours.sizes)):
            box = (30, 41, 97, 120)
            windows = []
            for slide in (theirs, ours):
                window, (left, top) = slide.region(level, box)
                windows.append(window.crop((box[0] - left, box[1] - top, box[2] - left, box[3] - top)))
            np.testing.assert_array_equal(*map(np.asarray, windows))
    theirs.close()


def test_the_extra_itself_knows_the_scale_of_a_scanners_tiff(tmp_path):
    path = write_pyramid(tmp_path / "slide.tif", 1024, compression="jpeg", apart=True, **philips(0.25))
    plain = open_tiff(path)
    assert plain is not None
    assert plain.microns_per_pixel is None
    box = (30, 41, 97, 120)
    with open_slide(path) as slide:
        assert isinstance(slide, WsiSlide)
        assert slide.microns_per_pixel == pytest.approx(0.25)
        np.testing.assert_array_equal(*(np.asarray(each.region(1, box)[0]) for each in (slide, plain)))
    plain.close()
    with open_slide(write_pyramid(tmp_path / "generic.tif", 512)) as slide:
        assert isinstance(slide, TiffSlide), "OpenSlide knows no more of it"


class TestSmallImage:
    """The small copy of the full-resolution image, for figures."""

    @pytest.fixture
    def decoded(self, monkeypatch) -> list[int]:
        """Tiles decoded of each TIFF that was closed."""
        found, close = [], TiffSlide.close
        monkeypatch.setattr(TiffSlide, "close", lambda slide: (found.append(slide.n_decoded), close(slide)))
        return found

    def test_of_a_pyramid_comes_from_the_level_that_is_fine_enough(self, tmp_path, decoded):
        y, x = np.mgrid[:256, :4096]
        waves = 128 + 100 * np.sin(x / 30) * np.cos(y / 25)
        image = np.stack([waves, 255 - waves, waves / 2], axis=-1).astype(np.uint8)
        path, flat = write_pyramid(tmp_path / "slide.tif", 0, image=image, tile=64), tmp_path / "flat.png"
        Image.fromarray(image).save(flat)
        small, scale = thumbnail(path)
        assert decoded == [2 * 32], "of the level of 2048 px; the full resolution has 256 tiles"
        expected, expected_scale = thumbnail(flat)
        assert (small.shape, scale) == (expected.shape, expected_scale)
        # Pillow's box takes whole pixels of the level, up to half a pixel off along each axis, and waves rise by
        # 8.2 greys a pixel at most; both ways round to whole greys.
        off = np.abs(small.astype(int) - expected)
        assert off.max() <= 8.2 / 2 + 1
        shifted = np.abs(np.roll(small, 1, axis=1).astype(int) - expected)
        assert off.mean() < shifted.mean() / 2

    @pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
    def test_of_a_image_in_one_piece(self, tmp_path, monkeypatch, ending):
        path = tmp_path / f"slide.{ending}"
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 2400, 3), np.uint8)).save(path)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        with open_slide(path) as slide:
            small, scale = slide.thumbnail()
        np.testing.assert_array_equal(small, thumbnail(path)[0])
        assert scale == thumbnail(path)[1] == 2000 / 2400

    def test_of_a_scanners_format(self, tmp_path):
        """OpenSlide knows a format by its content."""
        path = write_pyramid(tmp_path / "slide.ndpi", 1024, 0.5, compression="jpeg", apart=True)
        small = thumbnail(path)[0]
        np.testing.assert_array_equal(small, thumbnail(path.rename(tmp_path / "slide.tif"))[0])


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_narrow_slide_is_read_where_it_was_asked_for(tmp_path, level):
    """OpenSlide takes the mean of a level's two ratios as its factor, 2.03 here, and would drift along the slide."""
    y = np.arange(6000)
    image = np.repeat(np.stack([y // 24, 255 - y // 24, y // 48], axis=-1)[:, None], 65, axis=1).astype(np.uint8)
    path = write_pyramid(tmp_path / "strip.tif", 0, image=image, tile=64, apart=True)
    slide = WsiSlide(path)
    width, height = slide.sizes[level]
    top = height - 40
    read, place = slide.region(level, (0, top, width, height))
    slide.close()
    assert place == (0, top)
    rows = np.asarray(read)[:, width // 2, 0].astype(int)
    np.testing.assert_allclose(rows, np.arange(top, height) * 2**level // 24, atol=1)
