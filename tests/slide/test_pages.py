"""The same image written in many ways shows the same, or is refused in one line; the file says which page it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tifffile import TiffFile, TiffWriter

from nh2st_graph import ImageError
from nh2st_graph.im._patches import PatchCutter
from nh2st_graph.slide import HeldImage, TiffSlide, open_full, open_slide, slide_size, thumbnail

from ..images import BESIDE, CODECS, COLOURS, EXTRA, HEIGHT, PYRAMIDS, WIDTH, Variant, shown, source_image, write
from ..slides import halved

VARIANTS = st.builds(
    Variant,
    colour=st.sampled_from(COLOURS),
    tiled=st.booleans(),
    planar=st.booleans(),
    bits=st.sampled_from([8, 16]),
    beside=st.sampled_from(BESIDE),
    pyramid=st.sampled_from(PYRAMIDS),
    orientation=st.integers(1, 8),
    extra=st.sampled_from(EXTRA),
    codec=st.sampled_from(CODECS),
).filter(lambda variant: variant.exists)

#: Half of the image, and small ones that are cut from a smaller copy if there is one; some go over the border.
PATCHES = [((48.0, 32.0), 40.0, 40), ((30.5, 20.25), 32.0, 32), ((60.0, 40.0), 48.0, 12), ((4.0, 60.0), 24.0, 24)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module", params=[True, False], ids=["with the extra", "without the extra"])
def extra(request):
    with pytest.MonkeyPatch.context() as patch:
        if not request.param:
            for file in ("_open", "_tiff"):
                patch.setattr(f"nh2st_graph.slide.{file}.has_extra", lambda: False)
        yield request.param


def patches(path: Path) -> list[np.ndarray]:
    with open_slide(path) as slide:
        return [
            PatchCutter(slide, np.array([centre]), side).cut(0, size, Image.Resampling.BOX).astype(int)
            for centre, side, size in PATCHES
        ]


def check(path: Path, variant: Variant) -> None:
    """Compare patches, the whole image and the thumbnail with what the image is."""
    expected = path.with_suffix(".png")
    Image.fromarray(shown(variant)).save(expected)
    assert slide_size(path) == (WIDTH, HEIGHT)
    for ours, theirs in zip(patches(path), patches(expected), strict=True):
        assert np.abs(ours - theirs).max() <= variant.tolerance + 2 * (variant.pyramid != "none")
    with open_full(path) as whole:
        pixels = np.asarray(whole)
    assert np.abs(pixels.astype(int) - shown(variant)).max() <= variant.tolerance
    with open_slide(path) as slide:
        window, (left, top) = slide.region(0, (11, 7, 50, 60))
        np.testing.assert_array_equal(
            np.asarray(window.crop((11 - left, 7 - top, 50 - left, 60 - top))), pixels[7:60, 11:50]
        )
        if variant.tiled and variant.pyramid != "none":
            assert slide.sizes == [(96, 64), (48, 32), (24, 16)]
    small = thumbnail(path, 48)[0].astype(int)
    assert np.abs(small - thumbnail(expected, 48)[0]).mean() <= variant.tolerance + 2


def refused(variant: Variant) -> str | None:
    """Words of the refusal, of what no file of this kind says clearly enough."""
    if variant.extra == "associated" and variant.colour not in {"RGB", "grey"}:
        return "associated alpha with"
    return None


@given(VARIANTS)
def test_the_same_picture_written_in_many_ways(folder, extra, variant):
    path = write(folder / "image.tif", variant)
    words = refused(variant)
    if words is None:
        check(path, variant)
    else:
        for read in (patches, slide_size, thumbnail):
            with pytest.raises(ImageError, match=rf"image\.tif holds {words}") as caught:
                read(path)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tiled", [True, False])
@pytest.mark.parametrize("subsampling", [(2, 2), (2, 1), (4, 1), (4, 2)])
def test_chroma_of_fewer_pixels_under_a_codec_that_does_not_know_it(tmp_path, subsampling, tiled):
    variant = Variant("YCbCr", tiled, subsampling=subsampling, orientation=6)
    path = write(tmp_path / "image.tif", variant)
    with open_full(path) as whole:
        assert np.abs(np.asarray(whole).astype(int) - shown(variant)).max() <= variant.tolerance
        if not tiled:
            with Image.open(path) as theirs:
                assert np.abs(np.asarray(whole).astype(int) - np.asarray(theirs.convert("RGB"))).max() <= 1


@pytest.mark.parametrize("codec", ["deflate", "jpeg"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("colour", ["RGB", "CMYK", "palette", "YCbCr"])
def test_pillow_shows_the_same_of_what_it_reads(folder, colour, orientation, codec):
    variant = Variant(colour, orientation=orientation, tiled=False, codec=codec)
    if variant.exists:
        path = write(folder / "image.tif", variant)
        with open_full(path) as ours, Image.open(path) as theirs:
            np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs.convert("RGB")))


RGB = source_image()


def pages(path: Path, *written: tuple[np.ndarray, dict]) -> Path:
    with TiffWriter(path) as file:
        for pixels, options in written:
            file.write(pixels, **{"photometric": "rgb", "metadata": None, "tile": (16, 16), **options})
    return path


class TestBitDepth:
    @pytest.mark.parametrize("tile", [{}, {"tile": None}], ids=["tiled", "striped"])
    @pytest.mark.parametrize("bits", [10, 12, 14])
    def test_few_bits_in_16_without_a_word_are_refused(self, tmp_path, bits, tile):
        path = pages(tmp_path / "image.tif", (RGB.astype(np.uint16) << (bits - 8), tile))
        with pytest.raises(ImageError, match=r"uint16, 3 samples .* end at \d+ of 65535.* how many bits"):
            slide_size(path)

    @pytest.mark.parametrize("tile", [{}, {"tile": None}], ids=["tiled", "striped"])
    def test_the_tag_of_the_highest_value_says_the_range(self, tmp_path, tile):
        tags = [(281, 3, 3, (4095,) * 3, True)]
        path = pages(tmp_path / "image.tif", (RGB.astype(np.uint16) * 16, {"extratags": tags, **tile}))
        with open_full(path) as whole:
            assert np.abs(np.asarray(whole).astype(int) - RGB).max() <= 1

    @pytest.mark.parametrize("bits", [8, 12])
    def test_values_above_the_range_are_refused(self, tmp_path, bits):
        tags = [(281, 3, 3, (2**bits - 1,) * 3, True)]
        path = pages(tmp_path / "image.tif", (RGB.astype(np.uint16) * 257, {"extratags": tags}))
        with pytest.raises(ImageError, match=rf"values reach \d+, and says that they end at {2**bits - 1};"):
            slide_size(path)

    def test_the_tag_may_also_be_the_highest_value_that_occurs(self, tmp_path):
        tags = [(281, 3, 3, (51_143,) * 3, True)]
        path = pages(tmp_path / "image.tif", (RGB.astype(np.uint16) * 257, {"extratags": tags}))
        with open_full(path) as whole:
            np.testing.assert_array_equal(np.asarray(whole), RGB)

    @pytest.mark.parametrize("bits", [8, 12])
    def test_ome_says_the_range(self, tmp_path, bits):
        with TiffWriter(tmp_path / "a.ome.tif", ome=True) as file:
            about = {"axes": "YXS", "SignificantBits": bits}
            file.write(RGB.astype(np.uint16) << (bits - 8), photometric="rgb", tile=(16, 16), metadata=about)
        with open_full(tmp_path / "a.ome.tif") as whole:
            assert np.abs(np.asarray(whole).astype(int) - RGB).max() <= 1

    @pytest.mark.parametrize("bits", [1, 2, 4])
    def test_grey_of_few_bits(self, tmp_path, bits):
        values = RGB[..., 1] >> (8 - bits)
        packed = sum(values[:, i :: 8 // bits] << (8 - bits * (i + 1)) for i in range(8 // bits))
        path = pages(tmp_path / "image.tif", (packed, {"photometric": "minisblack", "tile": None}))
        with TiffFile(path, mode="r+") as file:
            file.pages[0].tags[256].overwrite(WIDTH)
            file.pages[0].tags[258].overwrite(bits)
        with open_full(path) as whole:
            expected = np.rint(values * (255 / (2**bits - 1)))
            np.testing.assert_array_equal(np.asarray(whole)[..., 0], expected)


class TestWhichPage:
    def test_a_named_label_is_no_level_whatever_its_shape(self, tmp_path):
        label = np.full((32, 48, 3), 9, np.uint8)
        for n, about in enumerate(
            ({"subfiletype": 9}, {"description": "label"}, {"extratags": [(285, 2, 6, "macro", True)]})
        ):
            path = pages(tmp_path / f"{n}.tif", (RGB, {}), (label, about), (halved(halved(RGB)), {"subfiletype": 1}))
            with open_slide(path) as slide:
                assert slide.sizes == [(96, 64), (24, 16)]

    def test_an_unmarked_page_of_other_tissue_is_no_level(self, tmp_path):
        path = pages(tmp_path / "image.tif", (RGB, {}), (halved(RGB)[::-1], {}))
        with open_slide(path) as slide:
            assert slide.sizes == [(96, 64)]

    def test_the_large_image_may_be_under_its_thumbnail(self, tmp_path):
        """As in DNG: the first page is a thumbnail, and the image one of its sub-images."""
        path = pages(tmp_path / "image.tif", (halved(RGB), {"subfiletype": 1, "subifds": 1}), (RGB, {}))
        with open_slide(path) as slide:
            assert slide.sizes[0] == (96, 64)
            np.testing.assert_array_equal(np.asarray(slide.region(0, (0, 0, 96, 64))[0]), RGB)

    def test_a_thumbnail_that_is_stored_otherwise_is_neither_level_nor_rival(self, tmp_path):
        small = np.asarray(Image.fromarray(RGB).resize((72, 48), Image.Resampling.BOX))
        path = pages(tmp_path / "image.tif", (small, {"tile": None}), (RGB, {}), (RGB, {}))
        with open_slide(path) as slide:
            assert slide.sizes == [(96, 64)]
        with pytest.raises(ImageError, match="2 images of equal standing"):
            slide_size(pages(tmp_path / "image.tif", (small[::-1], {"tile": None}), (RGB, {})))

    def test_focal_planes_of_aperio(self, tmp_path, extra):
        aperio = {"description": "Aperio Image Library v11\n96x64|MPP = 0.5"}
        other = {"tile": None, "description": "Aperio Image Library v11\nlabel 96x64"}
        path = tmp_path / "slide.svs"
        pages(path, (RGB, aperio), (halved(RGB), aperio), (RGB[::-1], aperio), (RGB, other))
        with open_slide(path) as slide:
            assert slide.sizes[:2] == [(96, 64), (48, 32)]
            assert slide.microns_per_pixel == 0.5
            np.testing.assert_array_equal(np.asarray(slide.region(0, (0, 0, 96, 64))[0]), RGB)

    def test_a_mask_is_no_level(self, tmp_path):
        mask = np.zeros((128, 192), bool)
        path = pages(tmp_path / "image.tif", (RGB, {}), (mask, {"subfiletype": 4, "photometric": "miniswhite"}))
        with open_slide(path) as slide:
            assert slide.sizes == [(96, 64)]

    def test_levels_that_are_turned_otherwise_are_left_out(self, tmp_path):
        upside_down = {"extratags": [(274, 3, 1, 3, True)]}
        path = pages(tmp_path / "image.tif", (RGB[::-1, ::-1], upside_down), (halved(RGB), {"subfiletype": 1}))
        with open_slide(path) as slide:
            assert slide.sizes == [(96, 64)]
            np.testing.assert_array_equal(np.asarray(slide.region(0, (5, 6, 50, 40))[0]), RGB[6:40, 5:50])


def about(name: str | None, um: float | tuple[float, float] | None) -> dict:
    x, y = um if isinstance(um, tuple) else (um, um)
    sizes = {} if um is None else {"PhysicalSizeX": x, "PhysicalSizeY": y}
    return {"axes": "YXS", **({} if name is None else {"Name": name}), **sizes}


def scenes(path: Path, *written: tuple[np.ndarray, dict], **options) -> Path:
    with TiffWriter(path, ome=True) as file:
        for pixels, metadata in written:
            file.write(pixels, photometric="rgb", metadata=metadata, **({"tile": (16, 16)} | options))
    return path


GREEN = np.full((60, 90, 3), (20, 160, 90), np.uint8)


class TestScenes:
    @pytest.fixture(params=[{}, {"tile": None}], ids=["tiled", "striped"])
    def two(self, tmp_path, request):
        return scenes(
            tmp_path / "two.ome.tif", (RGB, about("left", 0.5)), (GREEN, about("right", 0.25)), **request.param
        )

    def test_of_equal_standing_are_listed_with_how_to_choose(self, two, extra):
        for read in (slide_size, thumbnail, lambda path: open_full(path).__enter__()):
            with pytest.raises(
                ImageError, match=r"0 'left' \(96 x 64 px\), 1 'right' \(90 x 60 px\).*two\.ome\.tif#0$"
            ):
                read(two)

    @pytest.mark.parametrize(
        ("scene", "size", "um"), [("right", (90, 60), 0.25), ("1", (90, 60), 0.25), ("left", (96, 64), 0.5)]
    )
    def test_one_is_chosen_by_name_or_number(self, two, extra, scene, size, um):
        chosen = f"{two}#{scene}"
        assert slide_size(chosen) == size
        with open_slide(chosen) as slide, open_full(Path(chosen)) as whole:
            assert slide.microns_per_pixel == um
            np.testing.assert_array_equal(np.asarray(whole), RGB if size == (96, 64) else GREEN)
        assert thumbnail(chosen, 30)[0].shape == (20, 30, 3)

    @pytest.mark.parametrize("scene", ["middle", "2", "-1", ""])
    def test_an_unknown_one_is_an_error_that_lists_them(self, two, scene):
        with pytest.raises(ImageError, match=rf"holds no image '{scene}': 0 'left' .*, 1 'right'"):
            slide_size(f"{two}#{scene}")

    def test_names_that_occur_twice_are_no_choice(self, tmp_path):
        path = scenes(tmp_path / "a.ome.tif", (RGB, about("x", 0.5)), (GREEN, about("x", 0.5)))
        with pytest.raises(ImageError, match="2 images named 'x'"):
            slide_size(f"{path}#x")
        assert slide_size(f"{path}#1") == (90, 60)

    @pytest.mark.parametrize(
        ("names", "way"),
        [
            (("left", "right"), "0"),
            (("1", "0"), "1"),  # its name, since its number is the name of the other
            (("1", "1"), "0"),
            (("0", "0"), "0"),
            (("a", "0", "a"), "#0"),  # neither is its own
            (("x", "0", "0"), "x"),
        ],
    )
    def test_advice_leads_to_the_image_that_is_meant(self, tmp_path, names, way):
        others = [(GREEN, about(name, 0.5)) for name in names[1:]]
        path = scenes(tmp_path / "a.ome.tif", (RGB, about(names[0], 0.5)), *others)
        with pytest.raises(ImageError, match="of equal standing") as caught:
            slide_size(path)
        assert str(caught.value).endswith(f": a.ome.tif#{way}")
        assert slide_size(f"{path}#{way}") == (96, 64)
        for number in range(len(names)):
            assert slide_size(f"{path}##{number}") == ((90, 60) if number else (96, 64))

    def test_numbers_tell_images_of_one_name_apart(self, tmp_path):
        path = scenes(tmp_path / "a.ome.tif", (RGB, about("1", 0.5)), (GREEN, about("1", 0.5)))
        assert [slide_size(f"{path}#{number}") for number in (0, 1)] == [(96, 64), (90, 60)]
        path = scenes(tmp_path / "b.ome.tif", (RGB, about("2", 0.5)), (RGB, about("2", 0.5)), (GREEN, about("x", 0.5)))
        with pytest.raises(ImageError, match=r"2 images named '2'.* only their numbers.*: b\.ome\.tif#0$"):
            slide_size(f"{path}#2")

    def test_a_smaller_one_is_neither_level_nor_rival_but_said(self, tmp_path, caplog):
        small = np.full((32, 48, 3), 60, np.uint8)
        path = scenes(tmp_path / "a.ome.tif", (RGB, about("tissue 1", 0.25)), (small, about("tissue 2", 0.25)))
        for _ in range(2):
            with open_slide(path) as slide:
                assert slide.sizes == [(96, 64)]
        assert [each.count("1 'tissue 2' (48 x 32 px)") for each in caplog.messages] == [1]

    def test_labels_and_overviews_are_none(self, tmp_path, caplog):
        path = scenes(tmp_path / "a.ome.tif", (GREEN, about("label image", None)), (RGB, about(None, 0.5)))
        assert slide_size(path) == (96, 64)
        assert slide_size(f"{path}#label image") == (90, 60)
        assert not caplog.messages

    def test_pages_without_names(self, tmp_path):
        path = pages(tmp_path / "a.tif", (RGB, {}), (RGB[::-1], {}))
        with pytest.raises(
            ImageError, match=r"2 images of equal standing: 0 \(96 x 64 px\), 1 \(96 x 64 px\); .*a\.tif#0"
        ):
            slide_size(path)
        with open_full(f"{path}#1") as whole:
            np.testing.assert_array_equal(np.asarray(whole), RGB[::-1])

    def test_a_file_that_has_no_others(self, tmp_path):
        Image.fromarray(RGB).save(tmp_path / "a.png")
        with pytest.raises(ImageError, match=r"a\.png is no TIFF.*without #1"):
            slide_size(tmp_path / "a.png#1")


class TestResolution:
    def test_is_that_of_the_image_and_not_of_another_series(self, tmp_path, extra):
        small = np.full((16, 48, 3), 60, np.uint8)
        path = scenes(tmp_path / "a.ome.tif", (small, about("overview", 8.0)), (RGB, about("scan", 0.5)))
        with open_slide(path) as slide:
            assert slide.microns_per_pixel == 0.5
        path = scenes(tmp_path / "b.ome.tif", (small, about("overview", 8.0)), (RGB, about("scan", None)))
        with open_slide(path) as slide:
            assert slide.microns_per_pixel is None

    @pytest.mark.parametrize("tile", [(16, 16), None], ids=["tiled", "striped"])
    def test_of_pixels_that_are_not_square_is_none(self, tmp_path, extra, tile):
        tags = {"resolution": (20_000, 10_000), "resolutionunit": "CENTIMETER", "tile": tile}
        written = [pages(tmp_path / "tags.tif", (RGB, tags))]
        written.append(scenes(tmp_path / "a.ome.tif", (RGB, about("scan", (0.5, 1.0))), tile=tile))
        Image.fromarray(RGB).save(tmp_path / "a.png", dpi=(50_800, 25_400))
        for path in (*written, tmp_path / "a.png"):
            with open_slide(path) as slide:
                assert slide.microns_per_pixel is None

    def test_of_unequal_series_is_not_taken_from_the_tags(self, tmp_path):
        tags = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
        path = scenes(tmp_path / "a.ome.tif", (RGB, about("scan", (0.5, 1.0))), **tags)
        with open_slide(path) as slide:
            assert slide.microns_per_pixel is None


def test_scanners_whose_tiles_only_their_own_reader_places(tmp_path, monkeypatch):
    monkeypatch.setattr("nh2st_graph.slide._tiff.has_extra", lambda: False)
    monkeypatch.setattr("tifffile.TiffPage.is_bif", True)
    with pytest.raises(ImageError, match=r'in the format bif.*pip install "nh2st-graph\[wsi\]"'):
        slide_size(pages(tmp_path / "image.tif", (RGB, {})))


def test_kinds_of_slides(tmp_path):
    for tile, kind in (((16, 16), TiffSlide), (None, HeldImage)):
        with open_slide(pages(tmp_path / "image.tif", (RGB, {"tile": tile}))) as slide:
            assert isinstance(slide, kind)
            assert slide.layout.reading == ""


def test_a_layout_lists_the_images_of_its_file(tmp_path):
    path = scenes(tmp_path / "a.ome.tif", (RGB, about("scan", 0.5)), (GREEN, about("label", None)))
    for source, scene in ((path, None), (f"{path}#label", "label")):
        with open_slide(source) as slide:
            assert slide.layout.scene == scene
            assert slide.layout.scenes == ("0 'scan' (96 x 64 px)", "1 'label' (90 x 60 px)")
    with open_slide(pages(tmp_path / "b.tif", (RGB, {}), (halved(RGB), {}))) as slide:
        assert slide.layout.scenes == ()
