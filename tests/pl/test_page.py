from __future__ import annotations

import base64
import io

import matplotlib.pyplot as plt
import pytest
from PIL import Image

from nh2st_graph import pl


@pytest.fixture
def figure() -> plt.Figure:
    figure, ax = plt.subplots(figsize=(1, 1))
    ax.plot([0, 1])
    return figure


def test_a_drawing_is_svg_and_the_same_again(figure):
    uri = pl.as_data_uri(figure)
    kind, _, code = uri.partition(";base64,")
    assert kind == "data:image/svg+xml"
    assert b"<svg" in base64.b64decode(code)
    assert not plt.get_fignums()
    assert pl.as_data_uri(figure) == uri


def test_a_photograph_is_webp(figure):
    kind, _, code = pl.as_data_uri(figure, photo=True).partition(";base64,")
    assert kind == "data:image/webp"
    with Image.open(io.BytesIO(base64.b64decode(code))) as image:
        assert image.format == "WEBP"


def test_a_page_needs_all_that_its_template_shows(tmp_path):
    from jinja2 import UndefinedError

    with pytest.raises(UndefinedError):
        pl.write_page(tmp_path / "r.html", "pl", "page.html.j2", title="a <b>")
    path = pl.write_page(tmp_path / "r.html", "pl", "page.html.j2", title="a <b>", version="1")
    text = path.read_text(encoding="utf-8")
    assert "<title>a &lt;b&gt;</title>" in text
    assert "default-src 'none'" in text
