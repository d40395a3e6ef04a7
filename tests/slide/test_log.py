from __future__ import annotations

import io
import logging
import threading

import numpy as np
import pytest
from tifffile import TiffFile, TiffWriter

from nh2st_graph import ImageError
from nh2st_graph.slide import open_slide, slide_size


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / "slide.tif"
    with TiffWriter(path) as file:
        for side in (64, 32):
            image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
            file.write(image, photometric="rgb", tile=(16, 16), metadata=None)
    return path.read_bytes()


@pytest.mark.parametrize("first_page", [0, 10**7], ids=["none", "beyond the end"])
def test_what_tifffile_says_of_a_damaged_file_is_in_our_error(tmp_path, whole, caplog, first_page):
    path = tmp_path / "a.tif"
    path.write_bytes(whole[:4] + first_page.to_bytes(4, "little") + whole[8:])
    said = {0: "contains no pages", 10**7: "invalid offset to first page 10000000"}[first_page]
    with pytest.raises(ImageError, match=rf"a\.tif cannot be read as an image \({said}\); give") as caught:
        slide_size(path)
    assert "\n" not in str(caught.value)
    assert not caplog.messages


def test_a_file_that_opens_in_spite_of_it_is_warned_of_once(tmp_path, whole, caplog):
    path = tmp_path / "cut.tif"
    with TiffFile(io.BytesIO(whole)) as file:
        path.write_bytes(whole[: file.pages[1].offset])
    for _ in range(2):
        assert slide_size(path) == (64, 64)
    (record,) = caplog.records
    assert record.name == "nh2st_graph"
    assert "cut.tif" in record.message
    assert "invalid page offset" in record.message


def test_the_log_of_others_is_as_before(tmp_path, whole, caplog, monkeypatch):
    log, path = logging.getLogger("tifffile"), tmp_path / "whole.tif"
    path.write_bytes(whole)
    read = TiffFile.__init__

    def talks(self, *args, **kwargs):
        log.warning("<tifffile.TiffPages @8> ours\nhere")
        other = threading.Thread(target=log.warning, args=("theirs",))
        other.start()
        other.join()
        read(self, *args, **kwargs)

    before = (log.level, log.disabled, [*log.filters], [*log.handlers])
    with open_slide(path):
        log.warning("after")
    assert (log.level, log.disabled, log.filters, log.handlers) == before
    monkeypatch.setattr(TiffFile, "__init__", talks)
    assert slide_size(path) == (64, 64)
    *others, own = caplog.messages
    assert others == ["after", "theirs"]
    assert own.startswith(f"image {path} is opened, but tifffile says: ours here; ")
