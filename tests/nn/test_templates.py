from __future__ import annotations

import inspect
import tempfile
import traceback
from pathlib import Path

import pytest
import torch
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.conv import message_passing

from nh2st_graph.nn import leave_no_files


@pytest.fixture
def layer(tmp_path, monkeypatch) -> MessagePassing:
    """A layer of a new class, whose code is generated into an empty folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("sys.dont_write_bytecode", False)

    class Sum(MessagePassing):
        def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
            return self.propagate(edge_index, x=x)

    Sum.__name__ = f"Sum{tmp_path.name}"
    return Sum()


def test_no_file_is_left(layer, tmp_path):
    assert layer.propagate.__module__.endswith("_propagate"), "it was generated"
    edges = torch.tensor([[0, 1, 1], [1, 0, 1]])
    assert layer(torch.tensor([[1.0], [2.0]]), edges).tolist() == [[2.0], [3.0]]
    assert not list(tmp_path.iterdir())


def test_its_text_is_still_known(layer):
    text = inspect.getsource(type(layer).propagate)
    assert text.startswith("def propagate(")
    with pytest.raises((ValueError, TypeError, AttributeError)) as caught:
        layer(torch.ones(2, 1), "no edges")
    frames = traceback.extract_tb(caught.tb)
    assert any("Sum" in Path(frame.filename).name and frame.line for frame in frames)


def test_scripting_reads_it(layer):
    scripted = torch.jit.script(layer)
    edges = torch.tensor([[0, 1, 1], [1, 0, 1]])
    assert scripted(torch.tensor([[1.0], [2.0]]), edges).tolist() == [[2.0], [3.0]]


def test_it_is_done_once():
    before = message_passing.module_from_template
    leave_no_files()
    assert message_passing.module_from_template is before
