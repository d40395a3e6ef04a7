"""What a model rests on: digests of its sections, its panel, its encoders and the releases of libraries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy import sparse

from nh2st_graph.config import changes, completed_keys, flatten
from nh2st_graph.im._made_from import other_encoders, other_versions, public, stored_encoders
from nh2st_graph.section import DIGITS, Key, content_digest, other_sections
from nh2st_graph.train._prepare import Learned, PreparedSection
from nh2st_graph.train._record import made_with, settings_of

__all__ = ["mismatches", "origin_of", "prepared_digest"]


def origin_of(learned: Learned) -> dict[str, Any]:
    """Describe what a model that is trained on prepared sections rests on, as JSON values.

    Returns
    -------
    ``settings``, the configuration without files; ``panel``; ``torch``, its release; ``encoders``, the fingerprint of
    each, or None if they are unknown; ``train`` and ``tests``, the digests of each section; and ``versions`` and
    ``revision`` of :func:`made_with`.
    """
    sections = [*learned.train, *learned.tests]
    encoders = (stored_encoders(each.section.uns[Key.uns.image]) for each in sections)
    return {
        "settings": settings_of(learned.preparation.config),
        "panel": list(learned.preparation.genes),
        "torch": public(torch.__version__),
        "encoders": next((each for each in encoders if each is not None), None),
        "train": {each.name: prepared_digest(each) for each in learned.train},
        "tests": {each.name: prepared_digest(each) for each in learned.tests},
        **made_with(),
    }


def prepared_digest(prepared: PreparedSection) -> dict[str, str]:
    """Compute the digests of a prepared section: content, and if it has them, graph and image (or features)."""
    section, found = prepared.section, dict(prepared.digest)
    if Key.obsp.connectivities not in section.obsp or Key.uns.image not in section.uns:
        return found  # only its targets are read
    edges = sparse.csr_matrix(section.obsp[Key.obsp.connectivities])
    edges.sort_indices()
    found["graph"] = content_digest((), (edges.indices.astype(np.int64), edges.indptr.astype(np.int64)))
    known = section.uns[Key.uns.image].get(Key.features.made_from, {})
    if "image" in known:
        return {**found, "image": str(known["image"])[:DIGITS]}
    return {**found, "image features": content_digest((), [np.asarray(section.obsm[Key.obsm.image])])}


def mismatches(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """List what differs between what weights rest on and what is there now, in words; empty if nothing does."""
    # Keys of files and of the evaluation have no part in it, also where a default fills them in.
    known = flatten(now["settings"]).keys() | flatten(before["settings"]).keys()
    settings = completed_keys(before["settings"])
    found = changes({key: settings[key] for key in settings if key in known}, now["settings"])
    panel, genes = before["panel"], now["panel"]
    if panel != genes:
        new = [gene for gene in genes if gene not in set(panel)]
        what = f"{len(new)} of {len(genes)} genes, such as {new[0]!r}" if new else "genes left out or in another order"
        found.append(f"another panel ({what})")
    if before["torch"] != now["torch"]:
        found.append(f"torch {before['torch']} -> {now['torch']}")
    if before["encoders"] is not None and now["encoders"] is not None:
        found += [f"another encoder ({each})" for each in other_encoders(before["encoders"], now["encoders"])]
        found += other_versions(before["encoders"], now["encoders"])
    for name in [*before["train"], *now["train"]]:
        if (name in before["train"]) != (name in now["train"]):
            found.append(f"training section {name!r} is {'new' if name in now['train'] else 'gone'}")
    return found + other_sections(
        {**before["tests"], **before["train"]}, {**now["tests"], **now["train"]}, "section {!r} has other {}"
    )
