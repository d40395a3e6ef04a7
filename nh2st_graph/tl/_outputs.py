"""The files of a prediction: which are written, and their names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nh2st_graph._errors import ConfigError, RunError, nearest, setting

__all__ = ["EXPORTS", "Outputs", "chosen_exports", "refuse_existing"]

#: What the name of an export ends with, in place of ``.h5ad``.
EXPORTS = {"qupath": ".geojson", "seurat": "_10x", "loupe": "_loupe.csv", "csv": ".csv"}
_H5AD, _STORE, _PAGE = "h5ad", "spatialdata", "report"


def chosen_exports(export: str | Sequence[str]) -> tuple[str, ...]:
    """Read names of exports, which may stand in one text with commas between.

    Raises
    ------
    ConfigError
        If one is unknown.
    """
    names = export.split(",") if isinstance(export, str) else export
    found = tuple(dict.fromkeys(name.strip() for name in names if name.strip()))
    for name in found:
        if name not in EXPORTS:
            raise ConfigError(f"{setting('export', name)} is no format to export to; {nearest(name, EXPORTS)}")
    return found


@dataclass(frozen=True)
class Outputs:
    """What is written of each predicted section.

    Attributes
    ----------
    out
        The folder; or the ``.h5ad`` file of a single section, beside which the rest is written.
    spatialdata
        Whether a SpatialData store is written.
    export
        Names of exports.
    report
        Whether a page is written.
    """

    out: Path
    spatialdata: bool = False
    export: tuple[str, ...] = ()
    report: bool = False

    def of(self, section: str) -> dict[str, Path]:
        """Name the files of a section by their kind, its h5ad first."""
        file = self.out if self.out.suffix == ".h5ad" else self.out / f"{section}.h5ad"
        endings = {_STORE: ".zarr"} if self.spatialdata else {}
        endings |= {kind: EXPORTS[kind] for kind in self.export}
        endings |= {_PAGE: ".html"} if self.report else {}
        return {_H5AD: file, **{kind: file.with_name(f"{file.stem}{ending}") for kind, ending in endings.items()}}


def refuse_existing(outputs: Iterable[Path]) -> None:
    """Refuse to write outputs that exist.

    Raises
    ------
    RunError
        If one exists.
    """
    there = [path for path in outputs if path.exists()]
    if there:
        raise RunError(
            f"{there[0]} exists already; keep what is there with {setting('resume', True)}, give another folder as "
            f"{setting('out')}, or remove it"
        )
