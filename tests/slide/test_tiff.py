"""Tiled TIFF: the right pixels, and no more tiles than a window touches."""

from __future__ import annotations

import zlib

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tifffile import TiffWriter

from nh2st_graph import ImageError
from nh2st_graph.slide import HeldImage, TiffSlide, open_slide

from ..slides import halved, write_pyramid

IMAGE = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
SQUARE = np.random.default_rng(1).integers(0, 256, (200, 200, 3), dtype=np.uint8)


@pytest.fixture(scope="module", params=[None, "deflate", "lzw"])
def tiled(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("tiled") / "image.tif"
    with TiffWriter(path) as file:
        file.write(IMAGE, photometric="rgb", tile=(16, 32), compression=request.param)
    with open_slide(path) as slide:
        yield slide


@given(st.tuples(st.integers(0, 89), st.integers(0, 89)), st.tuples(st.integers(0, 69), st.integers(0, 69)))
def test_a_window_is_the_slice_of_the_image(tiled, x, y):
    (left, right), (top, bottom) = sorted(x), sorted(y)
    window, place = tiled.region(0, (left, top, right + 1, bottom + 1))
    assert place == (left, top)
    np.testing.assert_array_equal(np.asarray(window), IMAGE[top : bottom + 1, left : right + 1])


@pytest.mark.parametrize("apart", [False, True], ids=["sub-images", "one after another"])
def test_levels(tmp_path, apart):
    path = write_pyramid(tmp_path / "slide.tif", 0, image=SQUARE, tile=32, apart=apart)
    with open_slide(path) as slide:
        assert isinstance(slide, TiffSlide)
        assert slide.sizes == [(200, 200), (100, 100), (50, 50)]
        assert slide.downsamples == [1, 2, 4]
        np.testing.assert_array_equal(np.asarray(slide.region(2, (0, 0, 50, 50))[0]), halved(halved(SQUARE)))
        assert [slide.level_for(by) for by in (1, 1.9, 1.995, 2, 3.9, 4, 100)] == [0, 0, 1, 1, 1, 2, 2]


def test_a_label_is_no_level(tmp_path):
    with TiffWriter(tmp_path / "slide.tif") as file:
        for image in (SQUARE, SQUARE[:60, :40], halved(SQUARE)):
            file.write(image, photometric="rgb", tile=(16, 16), metadata=None)
    with open_slide(tmp_path / "slide.tif") as slide:
        assert slide.sizes == [(200, 200), (100, 100)]


def test_only_the_tiles_under_a_window_are_decoded_and_once(tmp_path):
    path = write_pyramid(tmp_path / "slide.tif", 0, image=SQUARE, tile=32)
    with open_slide(path) as slide:
        assert slide.n_decoded == 0
        slide.region(0, (33, 33, 60, 60))
        assert slide.n_decoded == 1
        slide.region(0, (30, 30, 40, 40))
        assert slide.n_decoded == 4
        slide.region(0, (0, 0, 64, 64))
        assert slide.n_decoded == 4


def test_what_is_kept_is_bounded(tmp_path, monkeypatch):
    most = 5 * 32 * 32 * 3
    monkeypatch.setattr("nh2st_graph.slide._tiff.KEPT_BYTES", most)
    path = write_pyramid(tmp_path / "slide.tif", 0, image=SQUARE, tile=32)
    with open_slide(path) as slide:
        window, _ = slide.region(0, (0, 0, 200, 200))
        np.testing.assert_array_equal(np.asarray(window), SQUARE)
        assert slide.n_decoded == 49
        assert sum(tile.nbytes for tile in slide._kept.values()) == slide._kept_bytes <= most
        slide.region(0, (193, 193, 200, 200))
        assert slide.n_decoded == 49, "the last ones are there"
        slide.region(0, (0, 0, 10, 10))
        assert slide.n_decoded == 50


def test_jpeg_tiles(tmp_path):
    smooth = np.linspace(0, 255, 128)[None, :, None] * np.linspace(0.2, 1, 128)[:, None, None] * [1.0, 0.6, 0.8]
    path = write_pyramid(tmp_path / "slide.tif", 0, image=smooth.astype(np.uint8), tile=64, compression="jpeg")
    with open_slide(path) as slide:
        found = np.asarray(slide.region(0, (0, 0, 128, 128))[0]).astype(int)
    assert np.abs(found - smooth).mean() < 4


@pytest.mark.parametrize(
    ("pixels", "photometric", "expected"),
    [
        (np.full((64, 64), 77, np.uint8), "minisblack", [77, 77, 77]),
        (np.full((64, 64, 4), [200, 0, 0, 51], np.uint8), "rgb", [244, 204, 204]),  # a fifth of the colour over white
    ],
    ids=["grey", "transparent"],
)
def test_becomes_rgb(tmp_path, pixels, photometric, expected):
    with TiffWriter(tmp_path / "slide.tif") as file:
        file.write(
            pixels, photometric=photometric, tile=(16, 16), extrasamples=["unassalpha"] if pixels.ndim == 3 else None
        )
    with open_slide(tmp_path / "slide.tif") as slide:
        np.testing.assert_array_equal(np.asarray(slide.region(0, (3, 3, 4, 4))[0]), [[expected]])


def test_tiles_that_a_file_leaves_out_are_glass(tmp_path):
    tiles = iter([b"", zlib.compress(bytes(16 * 16 * 3))])
    with TiffWriter(tmp_path / "slide.tif") as file:
        file.write(tiles, shape=(16, 32, 3), dtype=np.uint8, tile=(16, 16), photometric="rgb", compression="deflate")
    with open_slide(tmp_path / "slide.tif") as slide:
        found = np.asarray(slide.region(0, (0, 0, 32, 16))[0])
    assert (found[:, :16] == 255).all()
    assert (found[:, 16:] == 0).all()


def test_strips_of_a_small_image_are_held_whole(tmp_path, monkeypatch):
    with TiffWriter(tmp_path / "image.tif") as file:
        file.write(IMAGE, photometric="rgb", rowsperstrip=8)
    with open_slide(tmp_path / "image.tif") as slide:
        assert isinstance(slide, HeldImage)
    monkeypatch.setattr("nh2st_graph.slide._tiff._HELD_PIXELS", 100)
    with open_slide(tmp_path / "image.tif") as slide:
        assert isinstance(slide, TiffSlide)
        np.testing.assert_array_equal(np.asarray(slide.region(0, (5, 7, 80, 69))[0]), IMAGE[7:69, 5:80])
        assert slide.n_decoded == 9


@pytest.mark.parametrize(
    ("pixels", "options", "says"),
    [
        (np.zeros((64, 64, 3), np.uint16), {"photometric": "rgb"}, "uint16, 3 samples"),
        (np.zeros((3, 64, 64), np.uint8), {"photometric": "minisblack", "ome": True}, "1 samples a pixel, 3 planes"),
        (np.zeros((64, 64, 3), np.float32), {"photometric": "rgb"}, "float32, 3 samples"),
        (np.zeros((64, 64, 3), np.int16), {"photometric": "rgb"}, "int16, 3 samples"),
        (np.zeros((64, 64, 3), np.uint8), {"photometric": "cielab"}, r"CIE L\*a\*b\* \(uint8, 3 samples a pixel\)"),
    ],
    ids=["12 bits in 16", "channels", "float", "signed", "Lab"],
)
def test_what_is_no_image_of_bytes_is_refused(tmp_path, pixels, options, says):
    options = dict(options)
    with TiffWriter(tmp_path / "slide.tif", ome=options.pop("ome", False)) as file:
        file.write(pixels, tile=(16, 16), **options)
    with (
        pytest.raises(ImageError, match=f"{says}.*export it as an RGB image of 8 bits"),
        open_slide(tmp_path / "slide.tif"),
    ):
        pass


def test_damaged_tiles_are_an_image_error(tmp_path):
    path = write_pyramid(tmp_path / "slide.tif", 0, image=SQUARE, tile=64)
    with open_slide(path) as slide:
        offset = slide._pages[0].dataoffsets[2]
    content = bytearray(path.read_bytes())
    content[offset : offset + 60] = bytes(60)
    path.write_bytes(content)
    with open_slide(path) as slide:
        slide.region(0, (0, 0, 60, 60))
        with pytest.raises(ImageError, match=r"slide\.tif is cut off or damaged"):
            slide.region(0, (0, 0, 200, 200))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}, 0.25),
        ({"resolution": (50_800, 50_800), "resolutionunit": "INCH"}, 0.5),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, None),
        ({"resolution": (4, 4), "resolutionunit": "NONE"}, None),
        ({}, None),
        ({"description": "Aperio Image Library\n200x200|AppMag = 20|MPP = 0.4990", "software": ""}, 0.499),
    ],
    ids=["cm", "inch", "screen", "no unit", "none", "Aperio"],
)
def test_scale_of_the_file(tmp_path, options, expected):
    for tile in ({"tile": (16, 16)}, {}):
        with TiffWriter(tmp_path / "slide.tif") as file:
            file.write(SQUARE, photometric="rgb", metadata=None, **tile, **options)
        with open_slide(tmp_path / "slide.tif") as slide:
            assert slide.microns_per_pixel == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("lines", "dots", "expected"),
    [
        ("unit=um", (2, 2), (0.5, 0.5)),
        ("unit=micron", (4, 2), (0.25, 0.5)),
        ("unit=\u00b5m", (2, 2), (0.5, 0.5)),
        (r"unit=\u00B5m", (2, 2), (0.5, 0.5)),
        ("unit=nm", (0.002, 0.002), (0.5, 0.5)),
        ("unit=cm", (20_000, 20_000), (0.5, 0.5)),
        ("unit=inch", (50_800, 50_800), (0.5, 0.5)),
        ("unit=um\nyunit=mm", (2, 2000), (0.5, 0.5)),
        ("unit=pixel", (2, 2), None),
        ("unit=um", (0, 0), None),
        ("unit=cm", (72, 72), None),
        ("images=1", (2, 2), None),
    ],
)
def test_scale_of_imagej(tmp_path, lines, dots, expected):
    """ImageJ names the unit of the resolution tags in its description, and the tag of the unit says none."""
    path = tmp_path / "slide.tif"
    with TiffWriter(path) as file:
        about = f"ImageJ=1.54f\nimages=1\n{lines}\n".encode()
        file.write(SQUARE, photometric="rgb", metadata=None, description=about, resolution=dots, resolutionunit="NONE")
    with open_slide(path) as slide:
        assert slide.layout.resolution == (None if expected is None else pytest.approx(expected, rel=1e-3))


def test_scale_of_ome(tmp_path):
    about = {
        "axes": "YXS",
        "PhysicalSizeX": 0.65,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": 0.65,
        "PhysicalSizeYUnit": "µm",
    }
    with TiffWriter(tmp_path / "slide.ome.tif", ome=True) as file:
        file.write(SQUARE, photometric="rgb", tile=(32, 32), subifds=1, metadata=about)
        file.write(halved(SQUARE), photometric="rgb", tile=(32, 32), subfiletype=1)
    with open_slide(tmp_path / "slide.ome.tif") as slide:
        assert slide.microns_per_pixel == pytest.approx(0.65)
        assert slide.sizes == [(200, 200), (100, 100)]
        np.testing.assert_array_equal(np.asarray(slide.region(1, (3, 4, 60, 70))[0]), halved(SQUARE)[4:70, 3:60])


@pytest.mark.parametrize("with_extra", [True, False], ids=["with the extra", "without"])
@pytest.mark.parametrize(
    ("compression", "photometric", "luma"),
    [
        (33003, "rgb", True),
        (33003, "ycbcr", True),
        (33005, "rgb", False),
        (34712, "rgb", False),
        (34712, "ycbcr", True),
    ],
)
@pytest.mark.parametrize("ending", [".svs", ".tif"])
def test_aperio_keeps_luma_and_chroma_in_jpeg_2000(
    tmp_path, monkeypatch, ending, compression, photometric, luma, with_extra
):
    """Scheme 33003 holds luma and chroma, whatever the colour tag says, and 33005 holds RGB."""
    if not with_extra:
        for file in ("_open", "_tiff"):
            monkeypatch.setattr(f"nh2st_graph.slide.{file}.has_extra", lambda: False)
    x = np.linspace(0, 1, 128)
    rgb = np.stack(np.broadcast_arrays(120 + 120 * x, 90 + 100 * x[:, None], 200 - 50 * x), axis=-1).astype(np.uint8)
    kept = np.asarray(Image.fromarray(rgb).convert("YCbCr")) if luma else rgb
    tiles = [
        imagecodecs.jpeg2k_encode(kept[y : y + 64, x : x + 64], codecformat="j2k", mct=False, reversible=True)
        for y in (0, 64)
        for x in (0, 64)
    ]
    path = tmp_path / f"slide{ending}"
    with TiffWriter(path) as file:
        file.write(
            iter(tiles),
            shape=rgb.shape,
            dtype=np.uint8,
            tile=(64, 64),
            photometric=photometric,
            compression=compression,
            description="Aperio Image Library v11\n128x128 (64x64) J2K|MPP = 0.5",
            metadata=None,
        )
    with open_slide(path) as slide:
        found = np.asarray(slide.region(0, (3, 5, 100, 120))[0]).astype(int)
        assert slide.microns_per_pixel == 0.5
    assert np.abs(found - rgb[5:120, 3:100]).max() <= 3
