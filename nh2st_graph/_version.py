"""The version, in one place that imports nothing heavy."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("nh2st-graph")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

#: Model folders carry this number; a change that makes older folders unreadable raises it.
MODEL_FORMAT = 1
