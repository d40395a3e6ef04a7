"""Gene panels: lists of gene symbols, one a line."""

from __future__ import annotations

from pathlib import Path

from nh2st_graph._errors import DataError

__all__ = ["read_panel"]


def read_panel(path: str | Path) -> list[str]:
    """Read a gene panel.

    Parameters
    ----------
    path
        A text file with one gene symbol or Ensembl id a line. Blank lines, and comments after a ``#``, are ignored.

    Returns
    -------
    The names in the order of the file.

    Raises
    ------
    DataError
        If the file is missing, is not text, holds no gene or one gene twice, or has several words on a line.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DataError(f"gene panel {path} does not exist; give a file of symbols, one a line") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise DataError(f"gene panel {path} cannot be read: {reason}; give a file of gene symbols") from None
    first: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        symbol = line.partition("#")[0].strip()
        if not symbol:
            continue
        if len(symbol.split()) > 1:
            raise DataError(f"gene panel {path}, line {number}: {symbol!r} is not one symbol; write one a line")
        if symbol in first:
            raise DataError(f"gene panel {path}: {symbol!r} is on lines {first[symbol]} and {number}; remove one")
        first[symbol] = number
    if not first:
        raise DataError(f"gene panel {path} holds no gene; give gene symbols, one a line")
    return list(first)
