"""Files of a saved model, in a folder or in a zip archive that is checked before anything of it is read."""

from __future__ import annotations

import io
import logging
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfileobj
from typing import TYPE_CHECKING, Any

from nh2st_graph._errors import ModelError, RunError, reason, setting
from nh2st_graph._files import check_format, parse_json, written_aside
from nh2st_graph._settings import CONFIG_FILE, MODEL_FILE

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

__all__ = [
    "CARD",
    "EVIDENCE",
    "FOLDS",
    "KNOWN",
    "LOG",
    "METRICS",
    "MODEL_FORMAT",
    "PER_GENE",
    "WEIGHTS",
    "check_size",
    "holds",
    "is_archive",
    "read_description",
    "read_file",
    "read_log",
    "read_tensors",
    "reliable_genes",
    "write_archive",
]

logger = logging.getLogger("nh2st_graph")

WEIGHTS, FOLDS, LOG, CARD = "model.safetensors", "folds.safetensors", "log.csv", "README.md"
METRICS, PER_GENE = "metrics.json", "metrics_per_gene.csv"

#: Under this name the weights' file keeps what held-out data say of genes.
EVIDENCE = "confidence."

#: Model folders carry this number; a change that makes them unreadable for earlier versions raises it.
MODEL_FORMAT = 1

#: The files that a shared model may have, and the most bytes of each. The largest known encoder has 5 GB of weights.
KNOWN: dict[str, int] = {
    CARD: 2**22,
    MODEL_FILE: 2**26,
    WEIGHTS: 2**34,
    FOLDS: 2**35,
    LOG: 2**26,
    METRICS: 2**26,
    PER_GENE: 2**28,
}

#: A packed file may grow by this factor, if it is of this many bytes or more. Weights hardly shrink; text does by 20.
_RATIO, _SMALL = 100, 2**20

#: The time of every file in an archive, so that one model gives one archive; zip knows no earlier one.
_TIME = (1980, 1, 1, 0, 0, 0)

_PACKED = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_ENCRYPTED = 0x1

_SAVE = "write it again by ng.save"


def is_archive(path: Path) -> bool:
    """Whether a path names an archive: it ends in ``.zip``."""
    return path.suffix.lower() == ".zip"


def check_size(where: str, name: str, size: int) -> None:
    """Refuse a file of a model that is larger than any can be.

    Raises
    ------
    ModelError
        If it is.
    """
    if size > KNOWN[name]:
        raise ModelError(
            f"{where}: {name} has {size:,} bytes, and no model has more than {KNOWN[name]:,} there; do not use it"
        )


def _instead(place: Path) -> str:
    """Say what to give in place of a folder without a model."""
    if (place / CONFIG_FILE).is_file():
        return "its run has not finished: resume it, or give the folder of a finished run"
    finished = sorted(place.glob(f"*/{MODEL_FILE}"))
    such = f", such as {finished[0].parent}" if finished else ""
    return f"give the folder of a finished run{such}, or a model's .zip"


def read_description(model: Path, *, whole: bool = False) -> dict[str, Any]:
    """Read ``model.json`` of a folder or archive; if it is to be ``whole``, its format must be there.

    Raises
    ------
    ModelError
        If there is none, it is damaged, or of a later version.
    """
    text = read_file(model, MODEL_FILE)
    if text is None:
        raise ModelError(f"model {model}: no {MODEL_FILE} there; {_instead(model)}")
    again = f"copy the {'file' if is_archive(model) else 'folder'} again"
    try:
        description = parse_json(text)
    except ValueError:
        raise ModelError(f"model {model}: {MODEL_FILE} is not valid JSON; {again}") from None
    if not isinstance(description, dict):
        raise ModelError(f"model {model}: {MODEL_FILE} does not describe a model; {again}")
    otherwise = "train again, or install the version that wrote it"
    about = {"format": None, **description} if whole else description
    check_format(f"model {model}", about, MODEL_FORMAT, ModelError, otherwise)
    return description


def read_file(model: Path, name: str) -> bytes | None:
    """Read a file of a model's folder or archive; None if it is not there.

    Raises
    ------
    ModelError
        If the archive cannot be read, or holds what no model has.
    """
    if not is_archive(model) or not model.is_file():
        return (model / name).read_bytes() if (model / name).is_file() else None
    with _opened(model) as archive:
        found = _checked(model, archive).get(name)
        return None if found is None else archive.read(found)


def read_log(model: Path) -> pd.DataFrame:
    """Read the log of a model's training; without rows if it is not there, or cannot be read, which is warned of."""
    import pandas as pd  # here, since a description alone is read before anything heavy is loaded

    content = read_file(model, LOG)
    try:
        return pd.DataFrame() if content is None else pd.read_csv(io.BytesIO(content))
    except ValueError as error:  # of pandas and of decoding
        logger.warning("model %s: %s cannot be read (%s), and is left out", model, LOG, reason(error))
        return pd.DataFrame()


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive, and say in our words if it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise ModelError(f"model {path}: the archive is damaged ({reason(error)}); copy it again") from error


def holds(model: Path, name: str) -> bool:
    """Whether a model's folder or archive has a file.

    Raises
    ------
    ModelError
        If the archive cannot be read, or holds what no model has.
    """
    return (model / name).is_file() or (is_archive(model) and model.is_file() and name in _names(model))


def _names(path: Path) -> set[str]:
    with _opened(path) as archive:
        return {*_checked(path, archive)}


def read_tensors(model: Path, name: str) -> dict[str, Tensor]:
    """Read tensors of a model's folder or archive; safetensors' and the system's errors are not caught."""
    from safetensors.torch import load, load_file

    if not is_archive(model):
        with (model / name).open("rb"):  # safetensors calls a file that may not be read one that is not there
            return load_file(model / name)
    content = read_file(model, name)
    if content is None:
        raise FileNotFoundError(f"no {name} there")
    return load(content)


def reliable_genes(model: Path, description: Mapping[str, Any]) -> dict[str, list[str]]:
    """Name the genes that a saved model reads reliably, the best first, without loading the model.

    Parameters
    ----------
    model
        Its folder. An archive gives nothing: it would be read whole.
    description
        What :func:`read_description` gives.

    Returns
    -------
    The genes for slides of ``new`` patients, of ``known`` ones where training has named some, and of ``adapted`` ones
    where the model was adapted to some. Empty for a model of an earlier version, and where the file is not there or
    cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    from nh2st_graph.section import Key  # here, since a description alone is read before anything heavy is loaded

    whose = [name for name in ("new", "known", "adapted") if name in (description.get("confidence") or {})]
    if not whose or not (model / WEIGHTS).is_file():
        return {}
    found = {}
    try:
        with safe_open(model / WEIGHTS, framework="numpy") as file:
            for name in whose:
                columns = (Key.var.reliable, Key.var.held_out_partial)
                good, r = (file.get_tensor(f"{EVIDENCE}{name}.genes.{column}") for column in columns)
                order = (-r).argsort(kind="stable")
                found[name] = [description["genes"][i] for i in order if good[i]]
    except (OSError, SafetensorError, IndexError) as error:
        logger.warning("model %s: %s cannot be read (%s); copy it again", model, WEIGHTS, reason(error))
        return {}
    return found


def _checked(path: Path, archive: zipfile.ZipFile) -> Mapping[str, zipfile.ZipInfo]:
    """Give the files in an archive by name, and refuse it if it holds anything else, or more than a model has."""
    found: dict[str, zipfile.ZipInfo] = {}
    for each in archive.infolist():
        name = each.orig_filename  # the other one ends at a zero byte
        if name not in KNOWN:
            raise ModelError(
                f"model {path}: the archive holds {name!r}, and a model's holds {', '.join(KNOWN)} alone; {_SAVE}"
            )
        if name in found:
            raise ModelError(f"model {path}: the archive holds {name} twice; {_SAVE}")
        if stat.S_IFMT(each.external_attr >> 16) not in {0, stat.S_IFREG}:
            raise ModelError(f"model {path}: {name} in the archive is a link, or no file; {_SAVE}")
        if each.flag_bits & _ENCRYPTED or each.compress_type not in _PACKED:
            raise ModelError(f"model {path}: {name} in the archive is encrypted, or packed in a rare way; {_SAVE}")
        check_size(f"model {path}", name, each.file_size)
        if each.file_size >= _SMALL and each.file_size > _RATIO * each.compress_size:
            raise ModelError(
                f"model {path}: {name} would grow from {each.compress_size:,} to {each.file_size:,} bytes, by more "
                f"than {_RATIO} times, as no model does; do not use it"
            )
        found[name] = each
    return found


def write_archive(path: Path, files: Mapping[str, bytes | Path]) -> None:
    """Write the files of a model into an archive, atomically: the same files give the same bytes.

    Parameters
    ----------
    path
        The archive; one that exists is replaced.
    files
        Content of each file, or a file that holds it.

    Raises
    ------
    RunError
        If the path is a folder.
    """
    if path.is_dir():
        raise RunError(f"{path} is a folder; give another name as {setting('path')}, or remove it")
    with written_aside(path) as aside, zipfile.ZipFile(aside, "w") as archive:
        for name in [each for each in KNOWN if each in files]:
            content = files[name]
            about = zipfile.ZipInfo(name, _TIME)
            about.external_attr = (stat.S_IFREG | 0o644) << 16
            about.create_system = 3  # Unix, wherever it is written
            # Not packed: weights would hardly shrink, and what packing gives depends on the release of zlib.
            about.file_size = content.stat().st_size if isinstance(content, Path) else len(content)
            with archive.open(about, "w") as packed:
                if isinstance(content, Path):
                    with content.open("rb") as file:
                        copyfileobj(file, packed, 2**20)
                else:
                    packed.write(content)
