"""Show and clear the cache of image features."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from nh2st_graph._errors import ConfigError
from nh2st_graph._progress import phase
from nh2st_graph.cli._options import Cache

__all__ = ["cache"]

#: Rows of the table, most characters of a section in it, and those that an encoder has in any case.
_ROWS, _SECTION, _ENCODER = 30, 16, 12

#: Units of time, in seconds.
_UNITS = (("days", 86400), ("hours", 3600), ("min", 60))


def cache(
    folder: Cache = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove all files, but those that a process uses.")] = False,
    limit: Annotated[
        float | None,
        typer.Option(
            "--limit", metavar="GB", help="Remove the files that were not used for longest, until this much is left."
        ),
    ] = None,
) -> None:
    """Show the cache of image features: its files, their sizes, encoders, and when they were last used.

    The cache has a limit of 100 GB; the environment variable NH2ST_GRAPH_CACHE_GB sets another, and NH2ST_GRAPH_CACHE
    another folder. The files that were not used for longest go first. Features that are gone are computed again.

    Example: nh2st-graph cache

    Example: nh2st-graph cache --limit 20
    """
    phase("looking", brief=True)
    import pandas as pd
    from rich.console import Console

    from nh2st_graph.cli._tables import free_width, in_bytes, print_cells, shortened_name
    from nh2st_graph.im._cache import cache_folder
    from nh2st_graph.im._cache_limit import LIMIT, cache_limit, cached, shrink_cache
    from nh2st_graph.tl._named import check_cache

    if clear and limit is not None:
        raise ConfigError("--clear removes all, and --limit some; give one of them")
    if limit is not None and not limit >= 0:
        raise ConfigError(f"--limit {limit:g}; give a number of GB, 0 or above")
    check_cache(folder)
    place = cache_folder(folder)
    assert place is not None
    before = cached(place)
    asked = clear or limit is not None
    removed = set(shrink_cache(place, 0 if limit is None else limit * 1e9)) if asked else set()
    left = [each for each in before if each.path not in removed]
    phase()
    console = Console(soft_wrap=True)

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False)

    if asked:
        freed = sum(each.size for each in before) - sum(each.size for each in left)
        say(f"Removed {len(removed)} of {len(before)} files, {in_bytes(freed)}.")
        if left and clear:
            say(f"{len(left)} stay: a process uses them, or they may not be removed.")
    if left:
        shown = left[:_ROWS]
        table = pd.DataFrame(
            {
                "encoder": [each.encoder for each in shown],
                "patch um": [each.patch_um for each in shown],
                "spots": [f"{each.n_spots:,}" + (" (a part)" if each.part else "") for each in shown],
                "size": [in_bytes(each.size) for each in shown],
                "last used": [_ago(time.time() - each.used) for each in shown],
            },
            index=[shortened_name(each.section, _SECTION) for each in shown],
        )
        room = max(_ENCODER, free_width(console, table, "encoder"))
        table["encoder"] = [shortened_name(name, room) for name in table["encoder"]]
        print_cells(console, table, [""] * len(table), "Cached features, those that were used last first")
        if len(left) > _ROWS:
            say(f"... and {len(left) - _ROWS:,} more.")
    total, most = sum(each.size for each in left), cache_limit()
    say(f"{place}: {len(left):,} files, {in_bytes(total)} of at most {most / 1e9:g} GB ({LIMIT} sets the limit).")


def _ago(seconds: float) -> str:
    """Write a time that has passed."""
    for unit, length in _UNITS:
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"
