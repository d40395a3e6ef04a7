"""One thread while a block runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from nh2st_graph.train import one_thread


@pytest.fixture(params=[1, 3])
def threads(request) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_inside_there_is_one_and_after_as_many_as_before(threads):
    with one_thread():
        assert torch.get_num_threads() == 1
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == threads


def test_an_error_leaves_none_behind(threads):
    with pytest.raises(KeyError), one_thread():
        raise KeyError
    assert torch.get_num_threads() == threads
