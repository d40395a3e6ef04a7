"""Images are refused by the size that they declare; files here are small, and hold next to nothing."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tifffile import TiffWriter

from nh2st_graph import ImageError
from nh2st_graph.slide import open_full, open_slide, slide_size, thumbnail

SIDE = 100_000


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(path: Path, width: int, height: int) -> None:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = _chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(bytes(100))), _chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def jpeg(path: Path, width: int, height: int) -> None:
    Image.new("RGB", (64, 64)).save(path, "JPEG")
    content = bytearray(path.read_bytes())
    at = content.index(b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", height, width)
    path.write_bytes(content)


def bmp(path: Path, width: int, height: int) -> None:
    Image.new("RGB", (64, 64)).save(path, "BMP")
    content = bytearray(path.read_bytes())
    content[18:26] = struct.pack("<ii", width, height)
    path.write_bytes(content)


def tiff(path: Path, width: int, height: int, *, tile: int | None = None, n_bytes: int = 64) -> None:
    """A TIFF of one tile or strip of grey, which holds 64 bytes and declares ``n_bytes``."""
    where = {322: tile, 323: tile, 324: 8, 325: n_bytes} if tile else {273: 8, 278: height, 279: n_bytes}
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 277: 1} | where
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value or 0) for tag, value in sorted(tags.items()))
    path.write_bytes(b"II*\0" + struct.pack("<I", 72) + bytes(64) + struct.pack("<H", len(tags)) + entries + bytes(4))


BOMBS = {
    "a large png": lambda path: png(path, SIDE, SIDE),
    "the largest png": lambda path: png(path, 2**31 - 1, 2**31 - 1),
    "a png for its bytes": lambda path: png(path, 40_000, 40_000),
    "the largest jpeg": lambda path: jpeg(path, 65_500, 65_500),
    "a jpeg for its bytes": lambda path: jpeg(path, 20_000, 20_000),
    "a large bmp": lambda path: bmp(path, 60_000, 60_000),
    "a tiff in one strip": lambda path: tiff(path, SIDE, SIDE),
    "a strip for its bytes": lambda path: tiff(path, 30_000, 30_000),
    "a strip that declares its bytes": lambda path: tiff(path, 30_000, 30_000, n_bytes=900_000_000),
    "a tiff in one tile": lambda path: tiff(path, 65_535, 65_535, tile=65_536),
    "the largest tiff": lambda path: tiff(path, 2**32 - 1, 2**32 - 1, tile=512),
    "a long tiff": lambda path: tiff(path, 2**32 - 16, 16, tile=16),
}


@pytest.mark.parametrize("read", [slide_size, thumbnail])
@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_refused_before_they_are_decoded(tmp_path, bomb, read):
    path = tmp_path / "bomb"
    BOMBS[bomb](path)
    assert path.stat().st_size < 20_000
    thumbnail_of_nothing(tmp_path)
    tracemalloc.start()
    with pytest.raises(ImageError, match=r"bomb declares \d+ x \d+ px.* (2,147,483,648|200|524,288) px"):
        read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def thumbnail_of_nothing(folder: Path) -> None:
    """Load what reading an image loads, which would count as memory."""
    tiff(folder / "small", 8, 8)
    thumbnail(folder / "small")
    for ending in ("png", "jpg", "bmp"):
        Image.new("RGB", (8, 8)).save(folder / f"small.{ending}")
        thumbnail(folder / f"small.{ending}")


def test_bytes_that_are_not_there_take_no_memory(tmp_path):
    """A tile of 16 MB declares 4 GB of bytes."""
    path = tmp_path / "tile"
    tiff(path, 5000, 5000, tile=4096, n_bytes=2**32 - 1)
    tracemalloc.start()
    with pytest.raises(ImageError, match="cut off or damaged"), open_slide(path) as slide:
        slide.region(0, (0, 0, 10, 10))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**27


@pytest.fixture(scope="module")
def large_slide(tmp_path_factory):
    """A tiled slide of 100,000 px a side, of which one tile in 100 is there."""
    path = tmp_path_factory.mktemp("large") / "slide.tif"
    tile = np.random.default_rng(0).integers(0, 255, (2048, 2048, 3), np.uint8)
    n_tiles = (-(-SIDE // 2048)) ** 2
    with TiffWriter(path, bigtiff=True) as file:
        file.write(
            (tile if i % 400 == 0 else None for i in range(n_tiles)),
            shape=(SIDE, SIDE, 3),
            dtype=np.uint8,
            tile=(2048, 2048),
            photometric="rgb",
        )
    return path, tile


def test_a_real_slide_of_that_size_is_read_by_windows(large_slide):
    path, tile = large_slide
    with open_slide(path) as slide:
        assert slide.sizes[0] == (SIDE, SIDE)
        region, corner = slide.region(0, (10, 20, 300, 400))
    assert corner == (10, 20)
    assert np.array_equal(np.asarray(region), tile[20:400, 10:300])


def test_it_is_not_decoded_as_a_whole(large_slide):
    with (
        pytest.raises(ImageError, match=r"slide\.tif declares 100000 x 100000 px.*tiled TIFF"),
        open_full(large_slide[0]),
    ):
        pass


def test_blank_images_are_no_bombs(tmp_path, monkeypatch):
    """White compresses better than anything; small images may be blank in any format."""
    for ending in ("png", "jpg", "bmp"):
        Image.new("RGB", (3000, 2000), "white").save(tmp_path / f"blank.{ending}")
        assert slide_size(tmp_path / f"blank.{ending}") == (3000, 2000)
    monkeypatch.setattr("nh2st_graph.slide._limits.FREE", 0)
    assert slide_size(tmp_path / "blank.jpg") == (3000, 2000)


def test_a_text_that_unpacks_to_too_much(tmp_path):
    """Pillow refuses such a chunk with an error of Python's own."""
    path = tmp_path / "text.png"
    text = _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2_000_000)))
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + text + _chunk(b"IEND", b""))
    with pytest.raises(ImageError, match=r"text\.png is (cut off or )?damaged"):
        slide_size(path)
