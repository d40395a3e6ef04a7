"""Take the features that another package computed, in place of computing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from nh2st_graph._errors import ModelError, setting
from nh2st_graph.config import FeaturesConfig
from nh2st_graph.im import add_embeddings, embedding_file, in_obsm, source_of
from nh2st_graph.im._made_from import EMBEDDINGS, Fingerprint, other_encoders, stored_encoders
from nh2st_graph.section import Key, copy_of, section_name

__all__ = ["Embeddings"]


class Embeddings:
    """Gives sections the embeddings that a configuration or the caller names.

    Parameters
    ----------
    features
        The configuration.
    given
        Where the caller says they are, in place of the configuration.
    trust
        Whether files that the configuration names are opened. Those of a saved model are facts about its training.
    expected
        Fingerprints of what the model was trained on; None if they are unknown.
    """

    def __init__(
        self, features: FeaturesConfig, given: str | None, trust: bool, expected: Sequence[Fingerprint] | None
    ) -> None:
        self.features, self.given, self.trust, self.expected = features, given, trust, expected
        self._stated = (None, None) if features.embeddings is None else features.stated
        self._taken: dict[Path, str] = {}

    def add(self, section: AnnData) -> None:
        """Write a section's embeddings into it.

        Raises
        ------
        DataError
            If there are none, or they do not fit the section.
        ModelError
            If they are not of the encoder, length and scale of training, or need the caller's word.
        """
        self._join(section, "fail")
        entry = section.uns[Key.uns.image]
        other = other_encoders(self.expected or (), stored_encoders(entry) or ()) if self.expected else []
        if other:
            raise ModelError(
                f"section {section_name(section)!r}: {entry['file']} holds other features than the model was trained "
                f"on ({', '.join(other)}); give those of its encoder and patch size as {setting('features.embeddings')}"
            )

    def kept(self, section: AnnData) -> AnnData:
        """Leave out the spots without an embedding, if the configuration says so."""
        if self.features.missing == "fail":
            return section
        joined = copy_of(section)
        without = self._join(joined, "drop")
        if not len(without):
            return section
        rest = section[np.setdiff1d(np.arange(section.n_obs), without)].copy()
        rest.uns[Key.uns.dropped] = joined.uns[Key.uns.dropped]
        return rest

    def _join(self, section: AnnData, missing: Literal["fail", "drop"]) -> NDArray[np.intp]:
        encoder, patch_um = self._stated
        file = embedding_file(section, self._source(section), encoder)
        return add_embeddings(section, file, encoder, patch_um, missing=missing, fitted=self.expected is not None)

    def _source(self, section: AnnData) -> str | Path:
        """Find the file of a section, or the entry of its ``obsm``."""
        place, name = self.given or self.features.embeddings, section_name(section)
        if place is None or not (self.given or self.trust or in_obsm(place)):
            return self._stored(section)
        if in_obsm(place):
            return place
        path = source_of(place, name, single=True)
        if self._taken.setdefault(path, name) != name:
            source_of(place, name, single=False)  # one file for several sections
        return path

    def _stored(self, section: AnnData) -> str:
        """Find the embeddings that a section brings, of the kind that the model was trained on."""
        for key in (Key.obsm.image, *section.obsm):
            entry = section.uns.get(key)
            known = stored_encoders(entry) if isinstance(entry, Mapping) and key in section.obsm else None
            if known and known[0].get("encoder") == EMBEDDINGS and not other_encoders(self.expected or known, known):
                return f"obsm:{key}"
        named = not self.trust and self.features.embeddings is not None
        raise ModelError(
            f"section {section_name(section)!r} has no embeddings, and the model was trained on embeddings"
            f"{self._wanted()}; take them by ng.im.embeddings(adata, FILE), or give "
            f"{setting('features.embeddings', 'FOLDER')}"
            + (f", or let it open the files of its training: {setting('trust', True)}" if named else "")
        )

    def _wanted(self) -> str:
        about = dict(self.expected[0]) if self.expected else {}
        name, patch = about.get("name"), about.get("patch_um")
        return (f" of {name}" if name else "") + (f", patches of {patch:.4g} um" if patch else "")
