from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from nh2st_graph._errors import ConfigError
from nh2st_graph.im import Encoder, _encoders, make_encoders, register_encoder
from nh2st_graph.im._encoders import keep_encoders, kept_encoders


class Mean(Encoder):
    input_size = 8
    normalisation: dict = {}  # noqa: RUF012

    def __init__(self, rest: str, device: str) -> None:
        self.name = f"mean:{rest}"
        self.device = device
        self.fingerprint = {"encoder": "mean"}

    def encode(self, patches):
        return patches.mean(axis=(1, 2)).astype(np.float32)


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(_encoders, "_REGISTRY", dict(_encoders._REGISTRY))
    register_encoder("mean")(Mean)


@pytest.mark.usefixtures("registry")
def test_a_registered_encoder_is_made_by_name():
    (encoder,) = make_encoders("mean:rgb", "cpu")
    assert isinstance(encoder, Mean)
    assert (encoder.name, encoder.device) == ("mean:rgb", "cpu")
    assert encoder.n_features == 3
    assert encoder.feature_names == ["mean:rgb_0", "mean:rgb_1", "mean:rgb_2"]
    assert repr(encoder) == "Mean('mean:rgb', input_size=8)"


@pytest.mark.usefixtures("registry")
def test_joined_encoders_keep_their_order():
    names = [e.name for e in make_encoders("squidpy:summary+texture , mean:a,mean:b")]
    assert names == ["squidpy:summary+texture", "mean:a", "mean:b"]


@pytest.mark.usefixtures("registry")
def test_registering_again_warns():
    with pytest.warns(UserWarning, match="'mean' is registered again"):
        register_encoder("mean")(Mean)


@pytest.mark.usefixtures("registry")
class TestKept:
    def test_one_of_each_name_and_device_is_made(self):
        with keep_encoders():
            a, b = kept_encoders("mean:a,mean:b", "cpu")
            again, first = kept_encoders("mean:b,mean:a", "cpu")
            (elsewhere,) = kept_encoders("mean:a", "cuda")
        assert (first, again) == (a, b)
        assert a is not b
        assert elsewhere is not a

    def test_they_are_let_go_at_the_end_also_of_an_error(self):
        made = []

        def fail() -> None:
            with keep_encoders():
                made.append(weakref.ref(kept_encoders("mean:a", "cpu")[0]))
                assert made[0]() is kept_encoders("mean:a", "cpu")[0]
                raise KeyError

        with pytest.raises(KeyError):
            fail()
        gc.collect()
        assert made[0]() is None

    def test_the_outer_block_decides(self):
        with keep_encoders():
            with keep_encoders():
                (inner,) = kept_encoders("mean:a", "cpu")
            assert kept_encoders("mean:a", "cpu") == [inner]

    def test_outside_of_a_block_nothing_is_kept(self):
        (first,), (second,) = kept_encoders("mean:a", "cpu"), kept_encoders("mean:a", "cpu")
        assert first is not second

    def test_what_a_caller_may_train_is_never_shared(self):
        with keep_encoders():
            assert make_encoders("mean:a", "cpu") != kept_encoders("mean:a", "cpu")

    def test_another_thread_has_its_own(self):
        with keep_encoders(), ThreadPoolExecutor(1) as pool:
            assert kept_encoders("mean:a", "cpu") != pool.submit(kept_encoders, "mean:a", "cpu").result()

    def test_a_prefix_that_is_registered_again_is_made_anew(self):
        with keep_encoders():
            (first,) = kept_encoders("mean:a", "cpu")
            with pytest.warns(UserWarning, match="registered again"):
                register_encoder("mean")(type("Other", (Mean,), {}))
            (second,) = kept_encoders("mean:a", "cpu")
        assert type(second) is not type(first)

    def test_bad_names_are_refused_as_ever(self):
        with keep_encoders(), pytest.raises(ConfigError, match="'mean:a' occurs twice"):
            kept_encoders("mean:a,mean:a", "cpu")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("squidpi:summary", "unknown encoder 'squidpi:summary'; .*did you mean 'squidpy'"),
        ("resnet18", r"write PREFIX:NAME, such as 'timm:resnet18' \(prefixes: pixels, squidpy, timm, timm-map\)"),
        ("", "unknown encoder ''"),
        ("squidpy:summary,", "unknown encoder ''"),
        ("timm:", "'timm:' names no encoder; write timm:NAME"),
        ("squidpy:summary,squidpy:summary", "'squidpy:summary' occurs twice"),
    ],
)
def test_bad_names(names, message):
    with pytest.raises(ConfigError, match=message):
        make_encoders(names)
