from __future__ import annotations

import numpy as np
import pytest
import tifffile

from nh2st_graph import ImageError
from nh2st_graph.slide import keep_pixels, open_full


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NH2ST_GRAPH_CACHE", str(tmp_path))


def element(pixels, names=("r", "g", "b", "a"), chunk=700):
    """What a SpatialData store gives for an image at one scale."""
    import dask.array as da
    from xarray import DataArray

    data = da.from_array(pixels.transpose(2, 0, 1), chunks=(1, chunk, chunk))
    return DataArray(data, dims=("c", "y", "x"), coords={"c": list(names[: pixels.shape[2]])})


def noise(height, width, channels=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


# one tile and less, whole tiles, and a chunk that is no multiple of a tile
@pytest.mark.parametrize("size", [(1, 1), (512, 1024), (1500, 777)])
def test_pixels_are_the_same(size):
    pixels = noise(*size)
    path = keep_pixels(element(pixels), "here")
    with open_full(path) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)
    with tifffile.TiffFile(path) as file:
        assert file.pages[0].is_tiled


def test_written_once_for_each_content(tmp_path):
    pixels = noise(40, 30)
    first = keep_pixels(element(pixels), "here")
    written = first.stat().st_mtime_ns
    # chunks of a store are no part of its content
    assert keep_pixels(element(pixels, chunk=7), "there") == first
    assert first.stat().st_mtime_ns == written
    pixels[0, 0, 0] ^= 1
    assert keep_pixels(element(pixels), "here") != first
    assert keep_pixels(element(pixels.reshape(30, 40, 3)), "here") != first
    assert len(list((tmp_path / "images").iterdir())) == 3


def test_named_channels_are_put_in_order():
    pixels = noise(20, 20)
    path = keep_pixels(element(pixels[..., ::-1], names=("b", "g", "r")), "here")
    assert path == keep_pixels(element(pixels), "here")
    # without names of colours their order is that of the store
    assert path == keep_pixels(element(pixels, names=(0, 1, 2)), "here")


def test_what_is_transparent_is_white():
    pixels = noise(20, 20, 4)
    pixels[:10, :, 3], pixels[10:, :, 3] = 0, 255
    with open_full(keep_pixels(element(pixels), "here")) as image:
        seen = np.asarray(image)
    assert (seen[:10] == 255).all()
    np.testing.assert_array_equal(seen[10:], pixels[10:, :, :3])


@pytest.mark.parametrize("pixels", [noise(9, 9, 2), noise(9, 9).astype(np.uint16), noise(9, 9) / 255])
def test_not_rgb(pixels):
    with pytest.raises(ImageError, match=r"here: the image has \d channels of \w+, expected red, green and blue"):
        keep_pixels(element(pixels), "here")


def test_a_image_that_is_cut_off_in_writing_leaves_nothing(tmp_path, monkeypatch):
    def breaks(path, *_, **__):
        path.write_bytes(b"II")
        raise OSError("no space left")

    monkeypatch.setattr(tifffile, "imwrite", breaks)
    with pytest.raises(OSError, match="no space left"):
        keep_pixels(element(noise(9, 9)), "here")
    assert list((tmp_path / "images").iterdir()) == []
