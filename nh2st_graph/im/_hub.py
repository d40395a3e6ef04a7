"""Habits with the Hugging Face hub: say at once what is wrong, and where to get access."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nh2st_graph._errors import ConfigError, NH2STGraphError, reason

__all__ = ["access_to"]

#: Seconds that the hub has to answer before the cache alone is used.
_PATIENCE = 4.0


@contextmanager
def access_to(repository: str, where: str, *, page: str | None = None, instead: str) -> Iterator[None]:
    """Load from the hub, or from its cache if the hub does not answer.

    Without this, ``huggingface_hub`` asks six times in 24 s before it says that there is no network.

    Parameters
    ----------
    repository
        What is loaded, ``ORG/NAME`` or a name of timm.
    where
        What an error names first: the encoder, as a setting.
    page
        Address of the page that grants access; by default that of the repository.
    instead
        What else to do, the end of a sentence: ``"give a file: ..."``.

    Raises
    ------
    ConfigError
        If the hub or its cache does not give it.
    """
    from huggingface_hub import constants

    told_offline = constants.HF_HUB_OFFLINE
    silence = None if told_offline else _silence(constants.ENDPOINT)
    constants.HF_HUB_OFFLINE = told_offline or silence is not None
    try:
        yield
    except NH2STGraphError:
        raise
    except Exception as error:
        said = _said(error, repository, page or f"{constants.ENDPOINT}/{repository}", instead)
        if said is None and told_offline and _is_missing(error):
            said = (
                f"{repository} is not in {_cache()}, and HF_HUB_OFFLINE forbids to ask the hub; unset it and load it "
                f"once, or {instead}"
            )
        if said is None and silence is not None and _is_missing(error):
            said = (
                f"{repository} is not in {_cache()}, and the hub {constants.ENDPOINT} does not answer ({silence}); "
                f"connect to the network once, or {instead}"
            )
        if said is None:
            raise
        raise ConfigError(f"{where}: {said}") from error
    finally:
        constants.HF_HUB_OFFLINE = told_offline


def _silence(endpoint: str) -> str | None:
    """Say why the hub does not answer; None if it does."""
    from huggingface_hub import get_session

    try:
        get_session().head(endpoint, timeout=_PATIENCE)
    except Exception as error:  # the library underneath has changed its name and its errors twice
        return reason(error)
    return None


def _said(error: BaseException, repository: str, page: str, instead: str) -> str | None:
    """Say in one line what the hub answered; None if the error is not of the hub."""
    from huggingface_hub import errors

    found = list(_causes(error))
    log_in = "log in by: hf auth login (or set HF_TOKEN)"
    if _first(found, errors.GatedRepoError):
        return f"{repository} is gated; ask for access at {page}, then {log_in}, or {instead}"
    if _first(found, errors.RevisionNotFoundError):
        return f"the hub has no such revision of {repository}; leave it out, or see {page}"
    if _first(found, errors.RepositoryNotFoundError):
        return f"the hub has no repository {repository}, or a private one; check the name, or {log_in}"
    answer: Any = _first(found, errors.HfHubHTTPError)
    status = getattr(getattr(answer, "response", None), "status_code", None)
    if status in {401, 403}:
        return f"the hub refuses {repository} ({status}); ask for access at {page}, then {log_in}, or {instead}"
    if _first(found, errors.RemoteEntryNotFoundError):
        return f"{repository} lacks a file that it needs ({reason(error)}); see {page}, or {instead}"
    if answer is not None:
        return f"the hub does not give {repository} ({reason(answer)}); try again later, or {instead}"
    return None


def _is_missing(error: BaseException) -> bool:
    """Whether it says that a file is not in the cache, in the words of the hub, timm or ``transformers``."""
    from huggingface_hub import errors

    kinds = (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)
    return any(isinstance(each, kinds) for each in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Give an error and what it was raised from."""
    seen: set[int] = set()
    now: BaseException | None = error
    while now is not None and id(now) not in seen:
        seen.add(id(now))
        yield now
        now = now.__cause__ or now.__context__


def _first(found: list[BaseException], kind: type[BaseException]) -> BaseException | None:
    return next((each for each in found if isinstance(each, kind)), None)


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)
