from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nh2st_graph import ConfigError
from nh2st_graph.im._names import Options, join_options, split_names, split_options

from ..examples import draws

CHANNELS = st.tuples(*[st.floats(0.01, 1)] * 3)


@draws(30)
@given(
    options=st.builds(
        Options,
        pooling=st.sampled_from(["model", "cls", "mean", "cls+mean", None]),
        size=st.integers(1, 2000) | st.none(),
        mean=CHANNELS | st.none(),
        std=CHANNELS | st.none(),
        precision=st.sampled_from(["float32", "bfloat16", "float16", None]),
        remote_code=st.booleans() | st.none(),
    ),
    name=st.sampled_from(["uni2-h", "timm:resnet18.tv_in1k", "timm:vit@some folder/w=1.pth", "hf:org/name"]),
)
def test_options_come_back_from_the_name(options, name):
    written = join_options(name, options.given())
    if options.given():
        assert split_options(written) == (name, options)
    assert split_names(f"{written} , squidpy:summary") == [written, "squidpy:summary"]


def test_options_are_added_to_those_of_the_name():
    assert join_options("uni2-h?size=112", {"pooling": "cls", "mean": [0.5, 0.5, 1], "std": None}) == (
        "uni2-h?pooling=cls&size=112&mean=0.5/0.5/1.0"
    )
    assert join_options("uni2-h", {}) == "uni2-h"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a?siez=4", "no option 'siez'; did you mean 'size'"),
        ("a?size", "'size' is no option; write KEY=VALUE"),
        ("a?size=", "'size=' is no option"),
        ("a?size=1&size=2", "'size' is given twice"),
        ("a?size=0", "size=0; give"),
        ("a?size=10000000", "size=10000000; give .* to 4096"),
        ("a?size=1.5", "size=1.5; give"),
        ("a?pooling=max", "pooling=max; did you mean .mean"),
        ("a?precision=half", "precision=half; "),
        ("a?mean=0.5", "mean=0.5; give red, green and blue"),
        ("a?std=0/1/1", "std=0/1/1; give red, green and blue, all above 0"),
        ("a?mean=nan/0/0", "mean=nan/0/0"),
    ],
)
def test_bad_options(name, message):
    with pytest.raises(ConfigError, match=message):
        split_options(name)


def test_an_option_in_both_places():
    with pytest.raises(ConfigError, match="'size' is given twice"):
        join_options("a?size=4", {"size": 5})
    with pytest.raises(ConfigError, match="no option 'patch_um'"):
        join_options("a", {"patch_um": 5})
