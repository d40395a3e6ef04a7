"""Measure a step of fine-tuning, beside the encoder alone and beside NH2ST's literal form.

    python benchmarks/fine_tuning.py [--encoder resnet18] [--size 224] [--spots 64] [--repeats 5] [--device cpu]

All have an encoder of timm with random weights and the same patches of one section. ``bare`` is a forward and a
backward pass of the encoder over the normalised patches of a batch. ``ours`` is a step of training as
:func:`nh2st_graph.tl.fit` does it: patches from bytes, the network with its contrasts, gradients, clipping, AdamW and
the moving average of the weights. ``before`` is the same in an earlier checkout (``--before DIR``). ``literal`` is a
forward and a backward pass of NH2ST in its literal form, ten encoder passes a spot, in batches of 8 spots as published,
without its optimiser. They take turns, those of an earlier checkout in a process of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

N_GENES, LITERAL_BATCH = 250, 8


def section(n_spots: int, size: int) -> Any:
    """Make a graph of a square array with patches of noise."""
    import torch
    from torch_geometric.data import Data

    generator = torch.Generator().manual_seed(0)
    side = round(n_spots**0.5)
    pos = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()
    sender, receiver = ((torch.cdist(pos, pos) < 1.5) & ~torch.eye(len(pos), dtype=torch.bool)).nonzero().T
    step = pos[sender] - pos[receiver]
    length = step.norm(dim=1, keepdim=True)
    return Data(
        x=torch.randn(len(pos), 512, generator=generator),
        patches=torch.randint(256, (len(pos), size, size, 3), generator=generator, dtype=torch.uint8),
        y=torch.randn(len(pos), N_GENES, generator=generator),
        library=torch.full((len(pos), 1), 1000.0),
        pos=pos,
        edge_index=torch.stack([sender, receiver]),
        edge_attr=torch.cat([length, step / length], dim=1),
        section="S",
        num_nodes=len(pos),
    )


def our_step(graph: Any, options: argparse.Namespace) -> Callable[[], object]:
    """Give a step of training on the whole section, which is one batch."""
    import torch
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    from nh2st_graph.config import Config
    from nh2st_graph.models import NH2STGraph
    from nh2st_graph.train import SpotBatches, patch_encoder

    encoder = f"features.encoder=timm:{options.encoder}@random?size={options.size}"
    config = Config().override([encoder, "features.finetune=true", "features.patch_um=224", "model.closed_form=false"])
    encoder = patch_encoder(config.features, trained=True)
    assert encoder is not None
    network = NH2STGraph(config.model, len(encoder.feature_mean), N_GENES, encoder)
    network.prepare([graph])
    network.to(options.device).train()
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(config.train.ema_decay))
    adam = torch.optim.AdamW(network.parameters(), lr=1e-5, foreach=True)
    (batch,) = SpotBatches([graph], int(graph.num_nodes), network.receptive_hops)

    def step() -> None:
        with autocast(options.device):
            loss = network.losses(batch.to(options.device, non_blocking=True))["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        adam.step()
        adam.zero_grad()
        averaged.update_parameters(network)

    return step


def bare_step(graph: Any, options: argparse.Namespace) -> Callable[[], object]:
    """Give a forward and a backward pass of the encoder."""
    import timm
    import torch

    encoder = timm.create_model(options.encoder, num_classes=0).to(options.device).train()
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # as in ours
    images = (graph.patches.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
    images = images.to(options.device)

    def step() -> None:
        with autocast(options.device):
            features = encoder(images)
        features.sum().backward()
        encoder.zero_grad()

    return step


def literal_step(graph: Any, options: argparse.Namespace) -> Callable[[], object]:
    """Give forward and backward passes of NH2ST as published over all spots of the section."""
    import torch

    from nh2st_graph.models import NH2ST

    model = NH2ST(N_GENES, n_features=512 * (options.size // 32) ** 2).to(options.device).train()
    images = (graph.patches.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
    regions = torch.cdist(graph.pos, graph.pos).argsort(dim=1, stable=True)[:, :9]
    images, regions, genes = (each.to(options.device) for each in (images, regions, graph.y))

    def step() -> None:
        for spots in torch.arange(len(images)).split(LITERAL_BATCH):
            around = regions[spots]
            with autocast(options.device):
                outputs = model(images[spots], genes[spots], images[around], genes[around])
                loss = model.losses(outputs, genes[spots])["loss"]
            loss.backward()
            model.zero_grad()

    return step


def autocast(device: str) -> Any:
    """Mixed precision on a GPU, as training has it."""
    import torch

    return torch.autocast("cuda", torch.bfloat16, enabled=device.startswith("cuda"))


def seconds(step: Callable[[], object], device: str) -> float:
    import torch

    start = time.perf_counter()
    step()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(steps: list[str], options: argparse.Namespace) -> dict[str, list[float]]:
    """Time steps in turns, after one of each."""
    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    graph = section(options.spots, options.size)
    made = {
        name: {"ours": our_step, "bare": bare_step, "literal": literal_step}[name](graph, options) for name in steps
    }
    for step in made.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in made}
    for repeat in range(options.repeats):
        for name, step in made.items():
            if name != "literal" or repeat < options.literal_repeats:
                times[name].append(seconds(step, options.device))
    return times


def measure_before(options: argparse.Namespace) -> list[float]:
    """Time the step of an earlier checkout in its own process."""
    command = [sys.executable, __file__, "--only", "ours"]
    for name in ("encoder", "size", "spots", "repeats", "device", "threads"):
        command += [f"--{name}", str(getattr(options, name))]
    environment = {**os.environ, "PYTHONPATH": str(options.before.resolve())}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout.splitlines()[-1])["ours"])


def report(times: dict[str, list[float]], options: argparse.Namespace) -> str:
    """Format the result as Markdown."""
    import torch

    median = {name: statistics.median(each) for name, each in times.items()}
    where = torch.cuda.get_device_name() if options.device.startswith("cuda") else f"CPU, {options.threads} threads"
    side = round(options.spots**0.5)
    rows = [
        f"| {name} | {median[name]:.3f} | {min(each):.3f} to {max(each):.3f} | {median[name] / median['bare']:.2f} | "
        f"{median['literal'] / median[name]:.1f} |"
        for name, each in times.items()
    ]
    return "\n".join(
        [
            f"{options.encoder}, {side * side} spots, patches of {options.size} px, {where}, "
            f"torch {torch.__version__}; medians of a step over all spots:",
            "",
            "| | seconds | fastest to slowest | times the bare encoder | literal form over this |",
            "| --- | ---: | --- | ---: | ---: |",
            *rows,
        ]
    )


def main() -> None:
    """Time all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="resnet18", help="of timm; the literal form always has ResNet-18")
    parser.add_argument("--size", type=int, default=224, help="side of a patch in pixels, a multiple of 32")
    parser.add_argument("--spots", type=int, default=64, help="spots of the section, a square number")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--literal-repeats", type=int, default=1, help="of the literal form, which takes long")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--before", type=Path, help="an earlier checkout")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure([options.only], options)))
        return
    times = measure(["bare", "ours", "literal"], options)
    if options.before is not None:
        times = {"bare": times["bare"], "before": measure_before(options), **times}
    print(report(times, options))


if __name__ == "__main__":
    main()
