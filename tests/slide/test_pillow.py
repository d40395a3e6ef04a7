from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from nh2st_graph import ImageError
from nh2st_graph.slide import content_hash, image_size, open_full, open_slide, thumbnail

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)


def _bytes(name: str, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, name, **options)
    return stream.getvalue()


ENCODED = {
    "jpg": _bytes("JPEG"),
    "png": _bytes("PNG"),
    "tif": _bytes("TIFF"),
    "deflate.tif": _bytes("TIFF", compression="tiff_deflate"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("images")


@pytest.fixture(params=["png", "tif", "deflate.tif"])
def lossless(request, folder):
    path = folder / f"whole.{request.param}"
    path.write_bytes(ENCODED[request.param])
    return path


def test_size_is_width_and_height(lossless):
    assert image_size(lossless) == (90, 60)
    assert image_size(str(lossless)) == (90, 60)


def test_full_resolution_is_the_image(lossless):
    with open_full(lossless) as image:
        np.testing.assert_array_equal(np.asarray(image), PIXELS)
    with pytest.raises(ValueError, match="closed"):
        image.getpixel((0, 0))


def test_thumbnail_smaller_than_asked_is_the_image(lossless):
    small, scale = thumbnail(lossless)
    np.testing.assert_array_equal(small, PIXELS)
    assert scale == 1.0


@pytest.mark.parametrize("ending", ["png", "jpg"])
@pytest.mark.parametrize("side", [7, 30, 89])
def test_thumbnail_shows_the_same_places(folder, ending, side):
    smooth = np.linspace(0, 255, 600)[None, :, None] * np.ones((400, 1, 3))
    path = folder / f"ramp.{ending}"
    Image.fromarray(smooth.astype(np.uint8)).save(path)
    small, scale = thumbnail(path, max_side=side)
    assert max(small.shape[:2]) == side
    assert scale == side / 600
    centres = (np.arange(side) + 0.5) / scale - 0.5  # each thumbnail pixel's place on the full image
    np.testing.assert_allclose(small[0, :, 0], np.interp(centres, np.arange(600), smooth[0, :, 0]), atol=14)


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("RGBA", (200, 0, 0, 0), (255, 255, 255)),  # transparent is glass
        ("RGBA", (200, 0, 0, 255), (200, 0, 0)),
        ("RGBA", (200, 0, 0, 51), (244, 204, 204)),  # a fifth of the colour over white
        ("LA", (90, 255), (90, 90, 90)),
        ("L", 77, (77, 77, 77)),
        ("P", 0, (0, 0, 0)),
    ],
)
def test_every_mode_becomes_rgb_over_white(folder, mode, value, expected):
    path = folder / "mode.png"
    Image.new(mode, (5, 4), value).save(path)
    with open_full(path) as image:
        assert image.mode == "RGB"
        np.testing.assert_allclose(image.getpixel((2, 2)), expected, atol=1)
    np.testing.assert_allclose(thumbnail(path)[0][2, 2], expected, atol=1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_the_orientation_in_exif_is_obeyed(folder, ending, orientation):
    path, exif = folder / f"turned.{ending}", Image.Exif()
    exif[274] = orientation
    stored = Image.fromarray(PIXELS[:4, :8]).resize((640, 320))
    stored.save(path, exif=exif, **({"quality": 95} if ending == "jpg" else {}))
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert image_size(path) == expected.shape[1::-1]
    with open_full(path) as image:
        np.testing.assert_array_equal(np.asarray(image), expected)
    small, scale = thumbnail(path, 160)
    assert scale == 0.25
    theirs = np.asarray(Image.fromarray(expected).resize(small.shape[1::-1], Image.Resampling.BOX))
    assert np.abs(small.astype(int) - theirs).mean() < 4


def test_exif_behind_the_pixels_of_a_png(folder):
    exif = Image.Exif()
    exif[274] = 6
    content = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = (len(content) - 4).to_bytes(4, "big") + content + zlib.crc32(content).to_bytes(4, "big")
    path = folder / "late.png"
    path.write_bytes(ENCODED["png"][:-12] + chunk + ENCODED["png"][-12:])
    assert image_size(path) == (60, 90)
    with open_full(path) as image:
        np.testing.assert_array_equal(np.asarray(image), np.rot90(PIXELS, -1))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_of_png(folder, channels):
    n_colours = 1 if channels < 3 else 3
    values, path = np.full((20, 30, channels), 65535, np.uint16), folder / "deep.png"
    values[..., :n_colours] = PIXELS[:20, :30, :n_colours].astype(np.uint16) * 257
    path.write_bytes(imagecodecs.png_encode(np.squeeze(values)))
    with open_full(path) as image:
        np.testing.assert_array_equal(np.asarray(image), np.broadcast_to(PIXELS[:20, :30, :n_colours], (20, 30, 3)))
    values[..., :n_colours] = 3200
    path.write_bytes(imagecodecs.png_encode(np.squeeze(values)))
    for read in (thumbnail, lambda path: open_full(path).__enter__()):
        with pytest.raises(ImageError, match=r"deep\.png holds uint16, whose values end at about 3\d\d\d of 65535"):
            read(path)


def test_inks_of_a_jpeg_and_a_palette_with_transparency(folder):
    rgb = Image.new("RGB", (16, 16), (200, 90, 160))
    rgb.convert("CMYK").save(folder / "inks.jpg", quality=95)
    rgb.quantize(4).save(folder / "palette.png", transparency=0)
    for name, expected in {"inks.jpg": (200, 90, 160), "palette.png": (255, 255, 255)}.items():
        with open_full(folder / name) as image:
            np.testing.assert_allclose(image.getpixel((5, 5)), expected, atol=3)


def test_inks_of_a_jpeg_that_does_not_say_whether_they_are_inverted(folder):
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 90, 160)).convert("CMYK").save(stream, "JPEG")
    content = stream.getvalue()
    start = content.index(b"\xff\xee\0\x0eAdobe")
    path = folder / "unmarked.jpg"
    path.write_bytes(content[:start] + content[start + 16 :])
    for read in (image_size, thumbnail):
        with pytest.raises(ImageError, match=r"unmarked\.jpg holds inks \(CMYK\).*Adobe.*; export it as an RGB image"):
            read(path)


@pytest.mark.parametrize("transform", [0, 2], ids=["CMYK", "YCCK"])
def test_inks_of_adobe(folder, transform):
    """Adobe's marker says that inks are inverted, and whether they are kept as luma and chroma."""
    inks = np.full((16, 16, 4), (200, 90, 160, 255), np.uint8)  # inverted, so that light of these colours is left
    kind = {0: "CMYK", 2: "YCCK"}[transform]
    path = folder / f"{kind}.jpg"
    path.write_bytes(imagecodecs.jpeg8_encode(inks, 98, colorspace="CMYK", outcolorspace=kind))
    with open_full(path) as image:
        np.testing.assert_allclose(image.getpixel((5, 5)), (200, 90, 160), atol=4)


@pytest.mark.parametrize(("mode", "says"), [("F", "float32"), ("I", "int32"), ("LAB", r"CIE L\*a\*b\*")])
def test_samples_that_are_refused(folder, mode, says):
    path = folder / "other.tif"
    Image.new(mode, (5, 4)).save(path)
    for read in (image_size, thumbnail, lambda path: open_full(path).__enter__()):
        with pytest.raises(ImageError, match=rf"other\.tif holds {says}.*; export it as an RGB image of 8 bits$"):
            read(path)


def test_floating_point_numbers_are_refused(folder):
    path = folder / "float.pfm"
    Image.new("F", (5, 4), 0.5).save(path)
    with pytest.raises(ImageError, match=r"float\.pfm holds floating-point numbers"):
        image_size(path)


@pytest.mark.parametrize("read", [image_size, thumbnail, lambda path: open_full(path).__enter__()])
def test_missing_or_foreign_file(folder, read):
    with pytest.raises(ImageError, match=r"nowhere\.png does not exist"):
        read(folder / "nowhere.png")
    with pytest.raises(ImageError, match="does not exist"):
        read(folder)
    path = folder / "text.jpg"
    path.write_text("not an image")
    with pytest.raises(ImageError, match=r"text\.jpg cannot be read"):
        read(path)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of a TIFF's directory, before it gives up
@given(st.sampled_from(sorted(ENCODED)), st.data())
def test_a_image_cut_off_anywhere_is_an_image_error(folder, ending, data):
    whole = ENCODED[ending]
    # The last bytes of a PNG close the file and hold no pixels.
    cut = data.draw(st.integers(0, len(whole) - (21 if ending == "png" else 1)))
    path = folder / f"cut.{ending}"
    path.write_bytes(whole[:cut])
    for read in (thumbnail, lambda p: open_full(p).__enter__()):
        with pytest.raises(ImageError, match=r"cut\.") as caught:
            read(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", ["png", "deflate.tif"])
def test_damaged_pixels_are_an_image_error(folder, ending):
    damaged = bytearray(ENCODED[ending])
    middle = len(damaged) // 2
    damaged[middle : middle + 40] = bytes(40)
    path = folder / f"damaged.{ending}"
    path.write_bytes(damaged)
    with pytest.raises(ImageError, match=r"damaged\..* is cut off or damaged"):
        thumbnail(path)


def test_an_error_of_the_caller_is_his_own(folder):
    path = folder / "mine.png"
    path.write_bytes(ENCODED["png"])
    with pytest.raises(OSError, match="not the image's"), open_full(path):
        raise OSError("not the image's")


@pytest.mark.parametrize("ending", sorted(ENCODED))
def test_images_above_pillows_limit(folder, monkeypatch, ending):
    """Of TIFF Pillow checks the size again when it decodes."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = folder / f"large.{ending}"
    path.write_bytes(ENCODED[ending])
    assert image_size(path) == (90, 60)
    assert thumbnail(path, 30)[0].shape == (20, 30, 3)
    with open_full(path) as image:
        assert image.size == (90, 60)
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "damaged"])
def test_pillows_limit_is_back_when_the_last_image_is_done(folder, monkeypatch, whole):
    """One limit for the process: images that are read at the same time do not put it back under each other."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for name in ("first.png", "second.png"):
        (folder / name).write_bytes(ENCODED["png"][: None if whole or name == "first.png" else 500])
    opened, begun, both, one = Image.open, set(), Barrier(2), Event()

    def meet(path):
        """Both begin, the first is done, and then the second goes on."""
        if path not in begun:
            begun.add(path)
            both.wait(60)
            if path.name == "second.png":
                assert one.wait(60)
        return opened(path)

    monkeypatch.setattr(Image, "open", meet)
    with ThreadPoolExecutor() as pool:
        second = pool.submit(thumbnail, folder / "second.png", 30)
        assert thumbnail(folder / "first.png", 30)[0].shape == (20, 30, 3)
        one.set()
        if whole:
            assert second.result()[0].shape == (20, 30, 3)
        else:
            with pytest.raises(ImageError, match="damaged"):
                second.result()
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files as Linux shows them")  # noqa: PTH112
def test_files_are_closed(folder):
    path = folder / "closed.tif"
    path.write_bytes(ENCODED["tif"])
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    image_size(path)
    thumbnail(path)
    with open_full(path):
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    path.write_bytes(ENCODED["tif"][:500])
    with pytest.raises(ImageError):
        thumbnail(path)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_content_hash(folder):
    path = folder / "hashed.png"
    path.write_bytes(ENCODED["png"])
    assert content_hash(path) == hashlib.sha256(ENCODED["png"]).hexdigest()


def test_thumbnail_of_a_section_never_holds_the_full_image(shared_data):
    path = next((shared_data / "her2st" / "data" / "ST-imgs" / "C" / "C6").glob("*.jpg"))
    code = (
        "import resource, sys; from nh2st_graph.slide import image_size, thumbnail;"
        "width, height = image_size(sys.argv[1]);"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; thumbnail(sys.argv[1]);"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / (width * height * 3))"
    )
    result = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert float(result.stdout) < 0.5


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
@pytest.mark.parametrize(
    ("unit", "dots", "um"), [(1, (20_000, 20_000), None), (2, (20_000, 10_000), None), (3, (20_000, 20_000), 0.5)]
)
def test_the_resolution_in_exif_has_a_unit_and_two_sides(tmp_path, ending, unit, dots, um):
    path, exif = tmp_path / f"scan.{ending}", Image.Exif()
    exif[282], exif[283], exif[296] = (*map(float, dots), unit)
    Image.new("RGB", (40, 30)).save(path, exif=exif)
    with open_slide(path) as slide:
        assert slide.microns_per_pixel == (um if um is None else pytest.approx(um))
