"""JSON that others wrote, and the numbers in it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nh2st_graph._files import parse_json, positive

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_reads_what_json_reads(value):
    text = json.dumps(value)
    assert parse_json(text) == parse_json(text.encode()) == value


@pytest.mark.parametrize("digits", [309, 400, 5000, 100_000])
def test_numbers_beyond_floats_are_infinite(digits):
    assert parse_json(f"[{'9' * digits}, -{'9' * digits}]") == [math.inf, -math.inf]
    assert parse_json("9" * 308) == 10**308 - 1


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "", "[1", b"\xff\xfe\xfd", "\x00"])
def test_what_is_no_json(text):
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


@given(st.floats() | st.integers())
def test_positive_numbers(value):
    wanted = value > 0 and value <= 1.7976931348623157e308
    assert positive(value) == (float(value) if wanted else None)


@pytest.mark.parametrize("value", [10**400, True, False, "1", None, [1.0], 1j, np.array([1.0, 2.0]), {}])
def test_what_is_no_positive_number(value):
    assert positive(value) is None


@pytest.mark.parametrize("value", [np.float32(0.5), np.int64(3), np.float64(2)])
def test_numbers_of_numpy(value):
    assert positive(value) == float(value)
