"""Tell shifted slides from slides like those of training, by familiarity.

    python benchmarks/familiarity.py --data DIR --out benchmarks/results/trust/familiarity.md [--cache DIR]

``DIR`` holds ``her2st/`` (the repository almaan/her2st) and ``visium_tiny/``. Each section of HER2ST's patient C is
held out from the other three, and each patient of six synthetic sections from the other two. The section that was held
out is a slide like those of training. The same section in other stains, at a stated resolution that is twice off, and
sections of other tissue are shifted slides, which are to be told from it. Features are handcrafted ones at three
scales; of shifted slides, every third spot is read. Seeds: synthetic tissue 0, stains 0 to 7.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

import nh2st_graph as ng
from nh2st_graph.confidence import Familiarity, FeatureColumns, Verdict
from nh2st_graph.im import StainJitter
from nh2st_graph.section import changed_entry, library, section_name
from nh2st_graph.train import one_thread

ENCODERS = [("handcrafted", um) for um in (112.0, 224.0, 448.0)]
PATIENT_C = ("C3", "C4", "C5", "C6")
SEEDS = tuple(range(8))
#: Kind and strength of a change of stain. Two sections of one patient differ by more than what the weak ones change.
STAINS = [("hed", 0.05), ("hed", 0.1), ("hed", 0.2), ("hed", 0.4), ("reinhard", 0.2), ("macenko", 0.2)]
WEAK = {f"stain: hed, {strength}" for strength in (0.05, 0.1)}
LIKE_TRAINING = "like training"
#: Neither like training for sure, nor shifted by us: in no sum.
OTHER_PATIENT = "another patient (B4)"
EVERY = 3

Features = NDArray[np.float32]


class Slides(NamedTuple):
    """Features of sections: as they are, by name, and shifted, by name and kind of shift."""

    own: dict[str, Features]
    shifted: dict[str, dict[str, list[Features]]]


class Split(NamedTuple):
    """Names of training sections, and of those held out."""

    train: Sequence[str]
    held_out: Sequence[str]


def encoded(section: AnnData, cache: Path | None, times: float = 1.0, stain: StainJitter | None = None) -> AnnData:
    """Compute features of a section whose image is said to have ``times`` its resolution, in another stain."""
    other, own = section.copy(), library(section)
    entry = changed_entry(own.entry, microns_per_pixel=own.microns_per_pixel * times)
    other.uns["spatial"] = {section_name(section): entry}
    ng.im.features(other, ENCODERS, stain=stain, progress=False, check_placement=False, cache=cache)
    return other


def slides(sections: Mapping[str, AnnData], shifted: Sequence[str], cache: Path | None) -> Slides:
    """Compute the features of sections, and of some of them shifted in every way."""
    own = {name: encoded(each, cache).obsm["X_image"] for name, each in sections.items()}
    found: dict[str, dict[str, list[Features]]] = {}
    for name in shifted:
        some = sections[name][::EVERY].copy()
        kinds = {f"resolution: {times:g} times as stated": [{"times": 1 / times}] for times in (0.5, 2.0)}
        kinds |= {
            f"stain: {kind}, {strength}": [{"stain": StainJitter(kind, strength, seed)} for seed in SEEDS]
            for kind, strength in STAINS
        }
        found[name] = {
            kind: [encoded(some, cache, **change).obsm["X_image"] for change in changes]
            for kind, changes in kinds.items()
        }
    return Slides(own, found)


def judged(
    split: Split, made: Slides, others: Mapping[str, Sequence[Features]], columns: FeatureColumns
) -> dict[str, list[tuple[Verdict, float]]]:
    """Judge the held-out sections and shifted slides; give verdicts and median familiarity by kind."""
    train = [made.own[name] for name in split.train]
    number = np.repeat(np.arange(len(train)), [len(each) for each in train])
    familiarity = Familiarity.fit(np.vstack(train), number, number, columns, "section")
    assert familiarity is not None
    kinds: dict[str, list[Features]] = defaultdict(list)
    for name in split.held_out:
        kinds[LIKE_TRAINING].append(made.own[name])
        for kind, each in made.shifted[name].items():
            kinds[kind] += each
    for kind, each in others.items():
        kinds[kind] += each
    return {
        kind: [(familiarity.judge(one), float(np.median(familiarity.of(one)))) for one in each]
        for kind, each in kinds.items()
    }


def score(verdict: Verdict) -> float:
    """Rank slides by how unlike training they are: by the smallest tail, and another resolution before all."""
    return 1.0 if verdict.resolution is not None else -min(verdict.tails.values())


def auc(like: Sequence[Verdict], shifted: Sequence[Verdict]) -> float:
    """Compute the area under the curve for telling shifted slides from those like training."""
    truth = [0] * len(like) + [1] * len(shifted)
    return float(roc_auc_score(truth, [score(each) for each in (*like, *shifted)]))


def auc_of_medians(like: Sequence[float], shifted: Sequence[float]) -> float:
    """Compute the same for the median familiarity of a slide's spots, of which low values are shifted."""
    return float(roc_auc_score([0] * len(like) + [1] * len(shifted), [-each for each in (*like, *shifted)]))


def moved(made: Slides, names: Sequence[str], columns: FeatureColumns) -> dict[str, float]:
    """Compute how far each kind of shift moves the mean colour of a slide: 1 is the median distance of two sections.

    Features of colour are in standard deviations of all spots; what hardly varies between them does not count.
    """
    colour = columns.groups["colour"]
    spots = np.vstack([made.own[name][:, colour] for name in names])
    deviation = spots.std(axis=0)
    kept = deviation > 1e-3 * np.median(deviation)

    def mean(features: Features) -> Features:
        return np.asarray((features[:, colour].mean(axis=0) / deviation)[kept])

    own = [mean(made.own[name]) for name in names]
    apart = np.median([np.linalg.norm(a - b) for k, a in enumerate(own) for b in own[:k]])
    found: dict[str, list[float]] = defaultdict(list)
    for name in names:
        before = mean(made.own[name][::EVERY])
        for kind, slides in made.shifted[name].items():
            found[kind] += [float(np.linalg.norm(mean(each) - before)) for each in slides]
    return {kind: float(np.median(each) / apart) for kind, each in found.items()}


def table(
    title: str, splits: Sequence[Mapping[str, list[tuple[Verdict, float]]]], distance: Mapping[str, float]
) -> list[str]:
    """Write the table of one data set, over its splits; ``distance`` is that of :func:`moved`."""
    found: dict[str, list[tuple[Verdict, float]]] = defaultdict(list)
    for split in splits:
        for kind, each in split.items():
            found[kind] += each
    like, medians = (list(each) for each in zip(*found[LIKE_TRAINING], strict=True))
    columns = ["slides", "number", "colour moved", "AUC", "called unlike", "median familiarity", "its AUC"]
    lines = [
        f"## {title}",
        "",
        "| " + " | ".join([*columns, "most frequent reason"]) + " |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for kind, each in found.items():
        verdicts = [verdict for verdict, _ in each]
        own = [value for _, value in each]
        area, other = ("", "")
        if kind != LIKE_TRAINING:
            area, other = f"{auc(like, verdicts):.3f}", f"{auc_of_medians(medians, own):.3f}"
        reasons = Counter(verdict.reasons[0].partition(":")[0] for verdict in verdicts if verdict.reasons)
        # Of a resolution, the factor differs by slide.
        reasons = Counter({"another resolution" if "um per" in name else name: n for name, n in reasons.items()})
        most = reasons.most_common(1)[0][0] if reasons else ""
        share = np.mean([verdict.unlike for verdict in verdicts])
        far = f"{distance[kind]:.2g}" if kind in distance and "stain" in kind else ""
        lines.append(
            f"| {kind} | {len(each)} | {far} | {area} | {share:.0%} | {np.median(own):.2f} | {other} | {most} |"
        )
    shifted = set(found) - {LIKE_TRAINING, OTHER_PATIENT}
    by_kind = pd.DataFrame(
        {
            kind: [
                auc(like, [verdict for verdict, _ in found[kind]]),
                np.mean([verdict.unlike for verdict, _ in found[kind]]),
                auc_of_medians(medians, [median for _, median in found[kind]]),
            ]
            for kind in sorted(shifted)
        }
    ).T
    for name, (area, unlike, other) in {
        "stain, resolution and tissue once each": by_kind.groupby(lambda kind: kind.partition(":")[0]).mean().mean(),
        "each kind once": by_kind.mean(),
        "each kind once, no weak stains": by_kind.drop(sorted(WEAK)).mean(),
    }.items():
        lines.append(f"| **{name}** | | | **{area:.3f}** | {unlike:.0%} | | **{other:.3f}** | |")
    for name, kinds in (("all slides, pooled", shifted), ("all slides, no weak stains", shifted - WEAK)):
        verdicts = [verdict for kind in sorted(kinds) for verdict, _ in found[kind]]
        unlike = np.mean([verdict.unlike for verdict in verdicts])
        other = f"{auc_of_medians(medians, [value for kind in sorted(kinds) for _, value in found[kind]]):.3f}"
        area = f"{auc(like, verdicts):.3f}"
        lines.append(f"| {name} | {len(verdicts)} | | {area} | {unlike:.0%} | | {other} | |")
    return [*lines, ""]


def main() -> None:
    """Measure both data sets and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of her2st and visium_tiny")
    parser.add_argument("--out", type=Path, required=True, help="the tables")
    parser.add_argument("--cache", type=Path, help="folder of the feature cache")
    options = parser.parse_args()
    sections = ng.read.sections("her2st", options.data / "her2st", ("B4", *PATIENT_C))
    visium = encoded(ng.read.visium_section(options.data / "visium_tiny"), options.cache)
    columns = FeatureColumns.of(visium.uns["X_image"], visium.obsm["X_image"].shape[1])
    her2st = slides(sections, PATIENT_C, options.cache)
    with tempfile.TemporaryDirectory() as folder:
        tissue = ng.datasets.synthetic_tissue(6, 0, folder=folder, n_rows=12, n_cols=12, microns_per_pixel=1.0)
        synthetic = slides(tissue, list(tissue), options.cache)
    lines = [
        "# Familiarity: telling shifted slides from those like training",
        "",
        "By `python benchmarks/familiarity.py`. Area under the ROC curve (AUC) of the verdict on a whole slide; 0.5 is",
        "chance. A slide is called unlike by the limit that the training sections set. *Its AUC*: that of the median",
        'familiarity of the slide\'s spots, `obs["familiarity"]`. A mean over kinds of shift does not depend on',
        "how many slides of each were drawn; of all slides, nine in ten are in other stains. *Colour moved*: how far a",
        "stain moves a slide's mean colour, where 1 is the median distance of two sections like those of training.",
        "",
    ]
    real = []
    for name in PATIENT_C:
        split = Split([other for other in PATIENT_C if other != name], [name])
        others = {
            OTHER_PATIENT: [her2st.own["B4"]],
            "other tissue: Visium": [visium.obsm["X_image"]],
            "other tissue: synthetic": [synthetic.own["S1"], synthetic.own["S3"]],
        }
        real.append(judged(split, her2st, others, columns))
    lines += table("HER2ST: C3 to C6, each from the other three", real, moved(her2st, PATIENT_C, columns))
    drawn = []
    for first in (1, 3, 5):
        held_out = [f"S{first}", f"S{first + 1}"]
        others = {
            "other tissue: Visium": [visium.obsm["X_image"]],
            "other tissue: HER2ST": [her2st.own["B4"], her2st.own["C4"]],
        }
        split = Split([name for name in synthetic.own if name not in held_out], held_out)
        drawn.append(judged(split, synthetic, others, columns))
    lines += table(
        "Synthetic tissue: two sections from the other four", drawn, moved(synthetic, list(synthetic.own), columns)
    )
    print("\n".join(lines))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    with one_thread():  # as when a model is trained
        main()
