"""Samples of HEST-1k and HEST-Benchmark with known errors, and where these were reported."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from nh2st_graph._errors import listed

__all__ = ["KNOWN_SAMPLES", "KnownSample", "known_errors"]


class KnownSample(NamedTuple):
    """What is known to be wrong with a sample.

    Attributes
    ----------
    sample
        Its id.
    patient
        Its patient, where the published one is wrong or missing.
    same_as
        The id of the sample that it is a copy of.
    what
        What is wrong, or what to keep in mind, in words.
    source
        Where this was reported.
    """

    sample: str
    patient: str | None
    same_as: str | None
    what: str
    source: str


_CRC = "HEST names one patient for the five samples of this study, and the study names several"
_SEEN = "a model pretrained on HEST-1k may have learned from the same patient"
_PIXELS = "its pseudo-spots are 58 um apart, not 100 um, because of a wrong pixel size"

#: Samples with known errors. ``CRC P1`` to ``P5`` are patients of one study, by the names of its samples in HEST's
#: own metadata (column ``subseries``).
KNOWN_SAMPLES: dict[str, KnownSample] = {
    each.sample: each
    for each in (
        KnownSample("TENX147", "CRC P5", None, "three patients are one in the splits of COAD", "HEST #133"),
        KnownSample("TENX148", "CRC P2", None, "three patients are one in the splits of COAD", "HEST #133"),
        KnownSample("TENX149", "CRC P1", None, "three patients are one in the splits of COAD", "HEST #133"),
        KnownSample("TENX153", "CRC P3", None, _CRC, "HEST #126"),
        KnownSample("TENX154", "CRC P5", None, _CRC, "HEST #126"),
        KnownSample("TENX155", "CRC P2", None, _CRC, "HEST #126"),
        KnownSample("TENX156", "CRC P1", None, _CRC, "HEST #126"),
        KnownSample("TENX128", "CRC P2", "TENX155", "it is the sample TENX155 under another name", "HEST #126"),
        KnownSample("TENX95", None, None, f"{_SEEN} (TENX97)", "STPath #1 and #5"),
        KnownSample("TENX99", None, None, f"{_SEEN} (TENX98)", "STPath #1 and #5"),
        KnownSample("NCBI784", None, None, _PIXELS, "HEST #122"),
        KnownSample("TENX122", None, None, _PIXELS, "HEST #122"),
    )
}


def known_errors(samples: Iterable[str], *, corrected: bool) -> list[str]:
    """Say what is known to be wrong with samples, and where this was reported.

    Parameters
    ----------
    samples
        Ids of samples.
    corrected
        Whether patients are corrected, which the sentences then say.
    """
    by_what: dict[tuple[str, str], list[str]] = {}
    for name in samples:
        known = KNOWN_SAMPLES.get(name)
        if known:
            patient = f" (corrected: patient {known.patient})" if corrected and known.patient else ""
            by_what.setdefault((known.what, known.source), []).append(name + patient)
    return [f"{listed(names)}: {what} ({source})" for (what, source), names in by_what.items()]
