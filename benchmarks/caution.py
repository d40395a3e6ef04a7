"""What does caution for new patients cost where training has one? On real sections, and where all patients are alike.

    python benchmarks/caution.py --data DIR --out benchmarks/results/accuracy/caution.md [--cache DIR]

``DIR`` holds ``her2st/`` (the repository almaan/her2st) and ``gene_panels/her_hvg_cut_1000.txt``. The regression for
new patients is linear, has a strong penalty and reads five rings, unless that costs more than a share of the error on
held-out tissue; the first table has these costs, which training sections alone say. The second has mean r on a section
of another patient of synthetic tissue: of the model, of its two baselines, and of the model if caution had no limit.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from torch_geometric.data import Data

import nh2st_graph as ng
from nh2st_graph.config import Config, load_config
from nh2st_graph.metrics import pearson
from nh2st_graph.models import _closed_form as forms
from nh2st_graph.models import make_baseline
from nh2st_graph.nn import Description, fit_component_ridge
from nh2st_graph.train import Preparation

HERE = Path(__file__).resolve().parent
SIDES = (("C3", "C4", "C5", "C6"), ("B4",), ("C3",), ("C4",), ("C5",), ("C6",))
SEEDS = (0, 1, 2, 3)
COMPONENTS = 16
BASELINES = {"reduced-rank ridge": "reduced_rank_ridge", "kernel ridge": "kernel_ridge"}


def costs(sections: list[Data]) -> dict[str, float]:
    """Give what caution adds to the least held-out error of any penalty with one ring or five, as a share of it."""
    penalties = [each for each in forms.PENALTIES if each < forms._CAUTIOUS] + [forms._CAUTIOUS]
    narrow = Description.fit([each.x for each in sections], forms.groups_of(sections[0]))
    least, cautious = [], 0.0
    for description in (narrow, narrow.with_rings(forms._RINGS)):
        spots = forms.described_spots(description, sections)
        settings = {"sharpness": [0.0], "n_components": [COMPONENTS], "by_component": True}
        least.append(fit_component_ridge(spots, penalties=penalties, price=0.0, **settings).least)
        cautious = fit_component_ridge(spots, penalties=penalties[-1:], **settings).error
    return {"cost": cautious / min(least) - 1}


def chosen(sections: list[Data]) -> dict[str, float]:
    """Give the penalty and the number of rings of the regression for new patients."""
    fitted = forms.fit_closed_form(sections, COMPONENTS, 0.5)
    return {"penalty": fitted.chosen["new"]["penalty"][0], "rings": fitted.form.new_description.n_rings}


def r_of_another(train: list[Data], test: Data) -> dict[str, float]:
    """Give the mean r on a section of another patient."""
    limit, found = forms._PRICE, {}
    for name, price in (("the model", limit), ("without the limit", np.inf)):
        forms._PRICE = price
        found[name] = forms.fit_closed_form(train, COMPONENTS, 0.5).form(test).numpy()
    forms._PRICE = limit
    for name, method in BASELINES.items():
        baseline = make_baseline(method)
        baseline.fit(train)
        found[name] = baseline.predict(test)
    return {name: float(np.mean(pearson(np.asarray(each), test.y.numpy()))) for name, each in found.items()}


def real(data: Path, cache: Path | None) -> Iterator[tuple[str, list[Data]]]:
    """Prepare training sections of a single patient, with the default's features."""
    config = load_config(HERE.parent / "configs" / "her2st_mini.yaml").change(
        {
            "data.train": [],
            "data.test": [],
            "data.panel": str(data / "gene_panels" / "her_hvg_cut_1000.txt"),
            "features.cache": None if cache is None else str(cache),
            "train.progress": False,
        }
    )
    for names in SIDES:
        sections = ng.read.sections("her2st", data / "her2st", list(names))
        yield ", ".join(names), [each.measured for each in Preparation.learn(config, sections, {}, checked=True).train]


def synthetic(seed: int) -> tuple[list[Data], Data]:
    """Prepare two sections of a patient and one of another, with the default's features."""
    config = Config.parse({"data": {"panel": "hvg:50"}, "train": {"device": "cpu", "progress": False}})
    with TemporaryDirectory() as folder:
        sections = ng.datasets.synthetic_tissue(3, seed, folder=folder)
        test = {"S3": sections.pop("S3")}
        prepared = Preparation.learn(config, sections, test)
        return [each.measured for each in prepared.train], prepared.tests[0].measured


def main() -> None:
    """Measure, print and write both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of her2st and gene_panels")
    parser.add_argument("--out", type=Path, required=True, help="file of the tables")
    parser.add_argument("--cache", type=Path, help="folder of the feature cache")
    options = parser.parse_args()
    tissues = {f"synthetic tissue, seed {seed}": synthetic(seed) for seed in SEEDS}
    lines = [
        "# The price of caution",
        "",
        "By `python benchmarks/caution.py`. Cost: error on held-out sections, or held-out bands of a single one, with "
        f"a penalty of {forms._CAUTIOUS} and {forms._RINGS} rings, above the least of all penalties with one or "
        f"{forms._RINGS} rings. It may be {forms._PRICE:.0%}.",
        "",
        "| training sections of one patient | cost | penalty | rings |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, train in [*real(options.data, options.cache), *((name, both[0]) for name, both in tissues.items())]:
        row = costs(train) | chosen(train)
        lines.append(f"| {name} | {row['cost']:.1%} | {row['penalty']:.3g} | {row['rings']:.0f} |")
        print(lines[-1], flush=True)
    found = {name: r_of_another(*both) for name, both in tissues.items()}
    columns = ["the model", *BASELINES, "without the limit"]
    lines += [
        "",
        "Mean r on a section of another patient; the model is its closed form, without a correction by the network.",
        "",
        f"| | {' | '.join(columns)} |",
        "| --- |" + " ---: |" * len(columns),
    ]
    found["mean"] = {name: float(np.mean([row[name] for row in found.values()])) for name in columns}
    lines += [f"| {name} | {' | '.join(f'{row[each]:.3f}' for each in columns)} |" for name, row in found.items()]
    print(*lines[-len(found) :], sep="\n")
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
