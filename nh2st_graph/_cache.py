"""Where things are kept that can be computed or fetched again."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["ENVIRONMENT", "cache_root"]

#: Names the folder that holds the cache, in place of the user's cache directory.
ENVIRONMENT = "NH2ST_GRAPH_CACHE"


def cache_root() -> Path:
    """Find the cache's folder: of the environment, or of the user."""
    import pooch

    return Path(os.environ.get(ENVIRONMENT) or pooch.os_cache("nh2st_graph")).expanduser()
