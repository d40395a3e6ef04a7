"""Share a model: as one archive, or on the Hugging Face hub."""

from __future__ import annotations

import io
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nh2st_graph._errors import ConfigError, ModelError, reason, setting
from nh2st_graph._files import check_format, make_folder, parse_json
from nh2st_graph._settings import MODEL_FILE
from nh2st_graph.config import RUN_FORMAT
from nh2st_graph.train._archive import (
    CARD,
    FOLDS,
    KNOWN,
    LOG,
    METRICS,
    PER_GENE,
    WEIGHTS,
    check_size,
    is_archive,
    read_file,
    write_archive,
)

if TYPE_CHECKING:
    import pandas as pd

    from nh2st_graph.train._model import FittedModel

__all__ = ["HUB", "Scored", "find_model", "push_to_hub", "save"]

#: What the name of a model on the hub begins with.
HUB = "hf-hub:"

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_REVISION = re.compile(r"\w(?:[\w./-]*\w)?", re.ASCII)

#: Files that prediction reads, and whether every model has it. Nothing else of a repository is downloaded.
_READ = {MODEL_FILE: True, WEIGHTS: True, FOLDS: False, LOG: False}

#: Files of weights that are pickles, which can hold code.
_PICKLES = (".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth")

_ELSE = "give the model's folder or .zip"


class Scored(Protocol):
    """Scores of a model, such as an :class:`~nh2st_graph.tl.Evaluation`."""

    metrics: dict[str, Any]
    per_gene: pd.DataFrame


def save(model: FittedModel, path: str | Path, *, scores: Scored | str | Path | None = None) -> None:
    """Save a model into a folder, or as one ``.zip`` to pass on; :func:`load` reads both.

    An archive also holds a card (``README.md``) and the scores. It names no patient, and no path of this machine. The
    same model gives the same bytes.

    Parameters
    ----------
    model
        A fitted model.
    path
        A folder, as for :meth:`FittedModel.save`; or a file that ends in ``.zip``, which is replaced if it exists.
    scores
        For an archive: the run that scored the model, or what :func:`~nh2st_graph.tl.evaluate` gave. By default the
        folder that the model was loaded from, if it is a run with scores; not those of a model that was adapted since.

    Raises
    ------
    ModelError
        If the method cannot be saved, or the scores are of another model.
    RunError
        If the archive's path is a folder, or the disk is full or read-only.
    """
    path = Path(path)
    if not is_archive(path):
        return model.save(path)
    make_folder(path.parent)
    with shared_files(model, scores, name=path.stem, place=path.name, beside=path.parent) as files:
        write_archive(path, files)
    return None


def push_to_hub(
    model: FittedModel,
    repository: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    message: str | None = None,
    licence: str | None = None,
    scores: Scored | str | Path | None = None,
) -> str:
    """Upload a model to the Hugging Face hub, with a card, for :func:`load`.

    What is uploaded names no patient, and no path of this machine; it names the training sections.

    Parameters
    ----------
    model
        A fitted model.
    repository
        ``ORG/NAME``; is made if it does not exist.
    private
        Whether a new repository is private; by default as your organisation has it.
    token
        Your token; by default that of ``hf auth login`` or ``HF_TOKEN``.
    revision
        Branch to upload to; is made if it does not exist. By default the main one.
    message
        Message of the commit.
    licence
        Licence of the weights, as the hub writes it (``"cc-by-4.0"``).
    scores
        As for :func:`save`.

    Returns
    -------
    What :func:`load` takes to load exactly this upload: ``hf-hub:ORG/NAME@COMMIT``.

    Raises
    ------
    ModelError
        If the hub does not take it, the method cannot be saved, or the scores are of another model.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    name, named = _parts(repository if repository.startswith(HUB) else f"{HUB}{repository}")
    if revision is not None and named not in {None, revision}:
        raise ModelError(f"{repository} names another revision than {setting('revision', revision)}; name one")
    branch = revision or named
    place = f"{HUB}{name}" + (f"@{branch}" if branch else "")
    with shared_files(model, scores, name=name, place=place, licence=licence) as files, _uploading(name):
        hub = HfApi(token=token, library_name="nh2st-graph")
        hub.create_repo(name, private=private, exist_ok=True)
        if branch is not None:
            hub.create_branch(name, branch=branch, exist_ok=True)
        # Of an earlier model that is replaced, nothing stays beside this one.
        gone = {*KNOWN}.intersection(hub.list_repo_files(name, revision=branch)) - files.keys()
        changes: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(path_in_repo=file, path_or_fileobj=content) for file, content in files.items()
        ]
        changes += [CommitOperationDelete(path_in_repo=file) for file in sorted(gone)]
        done = hub.create_commit(name, changes, commit_message=message or "Model of nh2st-graph", revision=branch)
    return f"{HUB}{name}@{done.oid}"


@contextmanager
def _uploading(repository: str) -> Iterator[None]:
    """Say in one line why the hub does not take a model."""
    from huggingface_hub import constants, errors

    log_in = f"log in by: hf auth login (or give {setting('token')}, or set HF_TOKEN), with a token that may write"
    try:
        yield
    except errors.OfflineModeIsEnabled:
        what = f"HF_HUB_OFFLINE forbids to ask the hub; unset it, or write a file: {setting('path', 'MODEL.zip')}"
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        what = f"the hub refuses it ({reason(error)}); try again later"
        if status in {401, 403}:
            what = f"the hub refuses it ({status}); {log_in}"
    except Exception as error:  # the library underneath has changed its name and its errors twice
        what = f"the hub {constants.ENDPOINT} cannot be asked ({reason(error)}); connect to the network"
    else:
        return
    raise ModelError(f"{repository} cannot be uploaded: {what}")


@contextmanager
def shared_files(
    model: FittedModel,
    scores: Scored | str | Path | None,
    *,
    name: str,
    place: str,
    licence: str | None = None,
    beside: Path | None = None,
) -> Iterator[dict[str, bytes | Path]]:
    """Make the files of a shared model while the block runs, without names of patients and paths of this machine.

    They lie in a folder ``beside`` the output, or of the system.
    """
    from nh2st_graph.train._card import model_card

    metrics, per_gene = _scores(model, scores)
    card = model_card(model, name, place=place, licence=licence, metrics=metrics, per_gene=per_gene)
    with tempfile.TemporaryDirectory(prefix=".nh2st_graph_", dir=beside) as made:
        folder = Path(made)
        model.save(folder)
        if not (folder / MODEL_FILE).is_file():
            raise ModelError(f"method {model.config.model.name!r} cannot be saved, and so not be shared")
        description = json.loads((folder / MODEL_FILE).read_text(encoding="utf-8"))
        files: dict[str, bytes | Path] = {
            CARD: card.encode(),
            MODEL_FILE: _as_json(_public_description(description)),
            WEIGHTS: folder / WEIGHTS,
        }
        files |= {each: folder / each for each in (FOLDS, LOG) if (folder / each).is_file()}
        if metrics is not None:
            files[METRICS] = _as_json(_public_metrics(metrics))
        if per_gene is not None:
            files[PER_GENE] = per_gene.to_csv(float_format="%.6g", index=False, lineterminator="\n").encode()
        yield files


def _as_json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=1) + "\n").encode()


def _public_description(description: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a model without names of patients, paths, and options of its files; prediction reads none of them."""
    from nh2st_graph.train._card import n_patients, without_paths

    config = {part: dict(each) if isinstance(each, dict) else each for part, each in description["config"].items()}
    config["data"] |= {"root": None, "options": {}}
    config["features"] |= {"cache": None}
    origin = dict(description.get("origin") or {})
    patients = n_patients(origin)
    if origin:
        origin |= {part: _unnamed(origin.get(part, {})) for part in ("train", "tests")}
        origin |= {} if patients is None else {"n_patients": patients}
    if "adapted" in origin:
        origin["adapted"] = {**origin["adapted"], "sections": _unnamed(origin["adapted"]["sections"])}
    return {**description, "config": without_paths(config), **({"origin": origin} if origin else {})}


def _public_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Give the scores without names of patients, and paths."""
    from nh2st_graph.train._card import without_paths

    protocol = dict(metrics["protocol"])
    both = protocol.pop("patients_in_both", [])
    protocol["n_patients_in_both"] = len(both) if isinstance(both, list) else both
    if "sections" in protocol:
        protocol["sections"] = _unnamed(protocol["sections"])
    made = {
        name: value for name, value in metrics.get("record", {}).items() if name in {"versions", "revision", "seed"}
    }
    return {**metrics, "protocol": without_paths(protocol), **({"record": made} if made else {})}


def _unnamed(digests: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    return {
        section: {part: value for part, value in each.items() if part != "patient"} for section, each in digests.items()
    }


def _scores(
    model: FittedModel, scores: Scored | str | Path | None
) -> tuple[dict[str, Any] | None, pd.DataFrame | None]:
    """Give the scores of a model, and those of each gene; None where there are none.

    Raises
    ------
    ModelError
        If they are missing, damaged or of another model.
    """
    import pandas as pd

    per_gene: pd.DataFrame | None
    if scores is not None and not isinstance(scores, str | Path):
        metrics, per_gene = scores.metrics, scores.per_gene.reset_index()
        where = setting("scores")
    elif scores is None and "adapted" in model.origin:  # those of its folder are of the model that was adapted
        return None, None
    else:
        folder = Path(scores) if scores is not None else model.sources.folder
        content = None if folder is None else read_file(folder, METRICS)
        if folder is None or content is None:
            if scores is not None:
                raise ModelError(f"{scores} holds no {METRICS}; give the folder of a run that was scored")
            return None, None
        where, table = str(folder), read_file(folder, PER_GENE)
        try:
            metrics = parse_json(content)
            per_gene = None if table is None else pd.read_csv(io.BytesIO(table))
        except ValueError as error:
            raise ModelError(f"{folder}: its scores are damaged ({reason(error)}); score the run again") from None
    try:
        protocol = metrics["protocol"]
        ours = (sorted(model.train_sections), model.config.model.name, len(model.genes))
        theirs = (sorted(protocol["train"]), protocol["method"], protocol["n_genes"])
        check_format(where, {"version": protocol.get("version")}, RUN_FORMAT, ModelError)
        metrics["mean"], metrics["references"], protocol["test"], protocol["split"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{where}: its scores are incomplete ({reason(error)}); score the run again") from None
    if "adapted" in model.origin:
        _check_of_adapted(model, scores, where, protocol["test"])
    if ours != theirs:
        raise ModelError(f"{where}: its scores are of another model; give the run of this one as {setting('scores')}")
    return metrics, per_gene


def _check_of_adapted(
    model: FittedModel, scores: Scored | str | Path | None, where: str, tested: Iterable[str]
) -> None:
    """Refuse scores of the model before it was adapted, and on sections that it was adapted on."""
    if isinstance(scores, str | Path):
        raise ModelError(
            f"{where}: its scores are of the model before it was adapted; score it with ng.tl.evaluate, and give the "
            f"result as {setting('scores')}"
        )
    seen = sorted({*tested} & {*model.origin["adapted"]["sections"]})
    if seen:
        raise ModelError(
            f"{where}: the model was adapted on section {seen[0]!r}, and a score on it says nothing; score it on others"
        )


def find_model(model: str | Path) -> Path:
    """Give the folder or archive of a model; one of the hub (``hf-hub:org/name@revision``) is downloaded first.

    Only the files that prediction reads are downloaded, each up to a limit, into the hub's cache.

    Raises
    ------
    ModelError
        If the hub does not give it, or holds something else.
    """
    name = model.as_posix() if isinstance(model, Path) else model
    if not name.startswith(HUB):
        return Path(model)
    from nh2st_graph.im._hub import access_to

    repository, revision = _parts(name)
    try:
        with access_to(repository, f"model {name}", instead=_ELSE):
            return _downloaded(name, repository, revision)
    except ConfigError as error:
        raise ModelError(error.args[0]) from error


def _parts(name: str) -> tuple[str, str | None]:
    """Split a name into repository and revision."""
    repository, at, revision = name.removeprefix(HUB).partition("@")
    good = not at or (_REVISION.fullmatch(revision) and ".." not in revision)
    if not _REPOSITORY.fullmatch(repository) or not good:
        raise ModelError(f"{name!r} names no model of the hub; write {HUB}ORG/NAME, or {HUB}ORG/NAME@REVISION")
    return repository, revision or None


def _downloaded(name: str, repository: str, revision: str | None) -> Path:
    """Download the files of a model, or find them in the hub's cache, and give their folder."""
    from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_download, hf_hub_url

    where, found = f"model {name}", dict[str, Path]()
    for file, needed in _READ.items():
        try:
            if not constants.HF_HUB_OFFLINE:
                about = get_hf_file_metadata(hf_hub_url(repository, file, revision=revision))
                check_size(where, file, about.size or 0)
            found[file] = Path(hf_hub_download(repository, file, revision=revision, library_name="nh2st-graph"))
        except (errors.RemoteEntryNotFoundError, errors.LocalEntryNotFoundError) as error:
            if not needed:
                continue
            if isinstance(error, errors.LocalEntryNotFoundError):
                raise
            raise ModelError(f"{where}: {_missing(repository, revision, file)}; {_ELSE}") from None
        check_size(where, file, found[file].stat().st_size)
        revision = found[file].parent.name  # the commit, so that all files are of one
    return found[MODEL_FILE].parent


def _missing(repository: str, revision: str | None, file: str) -> str:
    """Say that a file is not in a repository, and what is in its place."""
    from huggingface_hub import HfApi

    try:
        there = HfApi().list_repo_files(repository, revision=revision)
    except Exception:  # the answer is about a file that is missing in any case
        there = []
    pickles = [each for each in there if each.lower().endswith(_PICKLES)]
    also = f"; it has {pickles[0]}, a pickle, which can hold code and is never opened" if pickles else ""
    return f"the repository has no {file}{also}"
