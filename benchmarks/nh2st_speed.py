"""Time NH2ST in its literal form (ten encoder passes per spot) and as a graph (one per patch).

    python benchmarks/nh2st_speed.py [--spots 48] [--patch 224] [--repeats 3] [--batch 8] [--device cpu]

Both forms compute all outputs of the same spots with the same weights. They run in turns in one process, after one
warm-up each. Times are medians. The script writes ``benchmarks/results/nh2st_speed.md``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from nh2st_graph.models import NH2ST, NH2STOutputs

RESULT = Path(__file__).resolve().parent / "results" / "nh2st_speed.md"
N_GENES = 250


def make_section(n_spots: int, patch: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Make patches and genes of a square array, and for each spot its nine nearest, itself first.

    Patches are coarse random squares, so that some patches resemble each other more than others.
    """
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn((n_spots, 3, 7, 7), generator=generator)
    patches = torch.nn.functional.interpolate(coarse, size=(patch, patch))
    genes = torch.rand((n_spots, N_GENES), generator=generator)
    side = int(n_spots**0.5)
    place = torch.arange(n_spots)
    position = torch.stack([place // side, place % side], dim=1).double()
    regions = torch.cdist(position, position).argsort(dim=1, stable=True)[:, :9]
    return patches.to(device), genes.to(device), regions.to(device)


def literal(model: NH2ST, patches: Tensor, genes: Tensor, regions: Tensor, batch: int) -> NH2STOutputs:
    """Run all spots in batches, as the authors train."""
    parts = [model(patches[i], genes[i], patches[regions[i]], genes[regions[i]]) for i in spots(patches).split(batch)]
    return NH2STOutputs(*[torch.cat(part) for part in zip(*parts, strict=True)])


def graph(model: NH2ST, patches: Tensor, genes: Tensor, regions: Tensor) -> NH2STOutputs:
    """Run all spots in one call, with an edge to each spot from the spots of its region."""
    receivers = spots(patches)[:, None].expand_as(regions)
    return model.on_graph(patches, genes, torch.stack([regions.flatten(), receivers.flatten()]))


def spots(patches: Tensor) -> Tensor:
    return torch.arange(len(patches), device=patches.device)


def seconds(call: Callable[[], NH2STOutputs], device: torch.device) -> float:
    """Measure the wall-clock seconds of one call."""
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def report(options: argparse.Namespace, times: dict[str, list[float]], apart: float) -> str:
    """Format the result as Markdown."""
    literal_s, graph_s = (statistics.median(times[name]) for name in ("literal", "graph"))
    cuda = torch.device(options.device).type == "cuda"
    hardware = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    command = " ".join(f"--{name} {value}" for name, value in vars(options).items())
    rows = "\n".join(
        f"| {name} | {passes} | {statistics.median(times[name]):.2f} | "
        f"{min(times[name]):.2f} to {max(times[name]):.2f} |"
        for name, passes in (("literal", 10 * options.spots), ("graph", options.spots))
    )
    return f"""# NH2ST: literal and graph form

The graph form computes the same outputs **{literal_s / graph_s:.1f} times** as fast.

{options.spots} spots of a square array, patches of {options.patch} pixels, {N_GENES} genes; the literal form in batches
of {options.batch} spots; no gradients. Median of {options.repeats} after one warm-up, in turns in one process.
{hardware}, torch {torch.__version__}, float32. No output differs by more than {apart:.0e}.

| | encoder passes | seconds | fastest to slowest |
| --- | --- | --- | --- |
{rows}

Command: `python benchmarks/nh2st_speed.py {command}`
"""


@torch.inference_mode()
def main() -> None:
    """Time both forms and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spots", type=int, default=48)
    parser.add_argument("--patch", type=int, default=224, help="side of a patch in pixels, a multiple of 32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8, help="spots in a batch of the literal form")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.backends.cudnn.allow_tf32 = False  # the forms must agree to rounding
    torch.manual_seed(0)
    model = NH2ST(N_GENES, n_features=512 * (options.patch // 32) ** 2).to(device).eval()
    section = make_section(options.spots, options.patch, device)
    forms = {"literal": lambda: literal(model, *section, options.batch), "graph": lambda: graph(model, *section)}
    outputs = {name: call() for name, call in forms.items()}
    apart = max(float((a - b).abs().max()) for a, b in zip(*outputs.values(), strict=True))
    # The forms take turns, so that a machine that gets busier slows both.
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(options.repeats):
        for name, call in forms.items():
            times[name].append(seconds(call, device))
    text = report(options, times, apart)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
