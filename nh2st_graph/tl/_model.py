"""A fitted model, among what a user calls."""

from __future__ import annotations

from nh2st_graph.train import FittedModel, load, save

__all__ = ["FittedModel", "load", "save"]
