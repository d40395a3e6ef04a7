"""What stored features were made from, and whether a section still agrees with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from anndata import AnnData

from nh2st_graph.im._cache import FORMAT
from nh2st_graph.section import Key, image_digest, library, library_id, spot_digests

__all__ = [
    "EMBEDDINGS",
    "SAME_PATCH",
    "Fingerprint",
    "differences",
    "floored",
    "made_from",
    "other_encoders",
    "other_releases",
    "other_versions",
    "public",
    "stored_encoders",
]

#: Parts of a fingerprint that say where and by which release an encoder ran, not which encoder it is.
_OF_THE_PLACE = {"precision", "versions"}

#: The kind of encoder in fingerprints of features that another package computed.
EMBEDDINGS = "embeddings"

#: Sizes of patches that differ by less are the same.
SAME_PATCH = 0.1

Fingerprint = Mapping[str, Any]


def made_from(section: AnnData, encoders: Sequence[Fingerprint], image_hash: str | None = None) -> dict[str, Any]:
    """Describe what features are made from: the section as it is now, and the encoders.

    Parameters
    ----------
    section
        The section.
    encoders
        Fingerprints of the encoders, with the stain reference of their patches.
    image_hash
        Hash of the section's own image, if it is known already.

    Returns
    -------
    ``format``; ``spots``, a digest of each spot's name and position, which holds for any part of the spots too;
    ``microns_per_pixel`` and ``image``, if the section has them; and ``encoders``, the fingerprint of each as JSON.
    """
    found = library(section) if library_id(section) is not None else None
    known: dict[str, Any] = {
        "format": FORMAT,
        "spots": spot_digests(section),
        "encoders": np.array([json.dumps(dict(each), sort_keys=True) for each in encoders], dtype=object),
    }
    if found is not None:
        known |= {
            "microns_per_pixel": found.microns_per_pixel,
            "image": image_hash or image_digest(found.source),
        }
    return {name: value for name, value in known.items() if value is not None}


def stored_encoders(entry: Mapping[str, Any]) -> list[Fingerprint] | None:
    """Read the fingerprints of the encoders of stored features; None if they are unknown."""
    known = entry.get(Key.features.made_from)
    return None if known is None else [json.loads(str(each)) for each in np.atleast_1d(known["encoders"])]


def differences(section: AnnData, entry: Mapping[str, Any]) -> list[str]:
    """List what has changed in a section since its features were made.

    Parameters
    ----------
    section
        The section.
    entry
        The entry of ``uns`` that describes the features.

    Returns
    -------
    What has changed, in words; empty if nothing has, as far as can be seen. An image that is not there is not compared.
    """
    known = entry.get(Key.features.made_from)
    if known is None:
        return []
    changed = []
    if int(known["format"]) != FORMAT:
        changed.append("the way patches are cut")
    if not np.isin(spot_digests(section), np.asarray(known["spots"], np.uint64)).all():
        changed.append("positions or names of spots")
    found = library(section) if library_id(section) is not None else None
    before, now = known.get("microns_per_pixel"), None if found is None else found.microns_per_pixel
    if before is not None and now is not None and not np.isclose(now, float(before), rtol=1e-6, atol=0):
        changed.append(f"resolution ({float(before):.4g} -> {now:.4g} um per px)")
    if not changed and found is not None and "image" in known:
        # Last, since it reads the whole file.
        changed += [] if image_digest(found.source) in {None, str(known["image"])} else ["image"]
    return changed


def other_encoders(before: Sequence[Fingerprint], now: Sequence[Fingerprint]) -> list[str]:
    """List what differs between two lists of encoders, but for the device and the release of libraries."""
    if len(before) != len(now):
        return [f"{len(before)} encoders -> {len(now)}"]
    return [
        name if name == "weights" else f"{name}: {first.get(name)} -> {second.get(name)}"
        for first, second in zip(map(_as_stored, before), map(_as_stored, now), strict=True)
        for name in sorted(_compared(first, second))
        if first.get(name) != second.get(name)
    ]


def _compared(first: Fingerprint, second: Fingerprint) -> set[str]:
    """Choose what tells two encoders apart; of embeddings, what both of their files say."""
    kinds = {first.get("encoder"), second.get("encoder")}
    if EMBEDDINGS not in kinds:
        return {*first, *second} - _OF_THE_PLACE
    if len(kinds) > 1:
        return {"encoder"}
    known = {name for name in first if first[name] is not None and second.get(name) is not None}
    # Patches of one size in pixels have sizes in um that differ by the resolution of slides.
    same = "patch_um" in known and abs(first["patch_um"] / second["patch_um"] - 1) <= SAME_PATCH
    return known - {"patch_um"} if same else known


def _as_stored(fingerprint: Fingerprint) -> Fingerprint:
    """Bring a fingerprint to the form that files keep, in which tuples are lists."""
    found: Fingerprint = json.loads(json.dumps(dict(fingerprint), sort_keys=True))
    return found


def other_versions(before: Sequence[Fingerprint], now: Sequence[Fingerprint]) -> list[str]:
    """List the libraries whose releases differ between two lists of encoders; a build for another device does not."""
    found: dict[str, None] = {}
    for first, second in zip(before, now, strict=False):
        was, is_ = first.get("versions", {}), second.get("versions", {})
        for name in sorted({*was} & {*is_}):
            if public(was[name]) != public(is_[name]):
                found[f"{name} {was[name]} -> {is_[name]}"] = None
    return list(found)


def other_releases(before: Sequence[Fingerprint]) -> list[str]:
    """List the libraries of encoders whose releases differ from those that are installed."""
    names = {name for each in before for name in each.get("versions", {})}
    installed = {name: version(name) for name in names}
    return other_versions(before, [{"versions": installed}] * len(before))


def public(release: str) -> str:
    """Give a version without its build: ``2.4.0`` of ``2.4.0+cu121``."""
    return str(release).partition("+")[0]


def floored(section: AnnData) -> AnnData:
    """Put the spots of a section at whole pixels, as far as the cutting of patches reads it."""
    return AnnData(
        obs=section.obs,
        obsm={Key.obsm.spatial: np.floor(np.asarray(section.obsm[Key.obsm.spatial], dtype=np.float64))},
        uns={key: section.uns[key] for key in (Key.uns.spatial,) if key in section.uns},
    )
