"""Colours of classes, the same in figures and in files for other tools."""

from __future__ import annotations

__all__ = ["CLASS_COLOURS"]

#: Of Okabe and Ito, which people with any colour vision can tell apart.
CLASS_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
