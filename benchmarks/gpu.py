"""Measure encoding, a training epoch, fine-tuning and prediction on a GPU, beside the CPU of the same machine.

    python benchmarks/gpu.py [--spots 10000] [--patches 512] [--repeats 5] [--devices cpu cuda]

Encoders are ResNet-18 of timm with random weights on patches of 224 px; the section is a square array with eight
neighbours and 512 features a spot, its network without the closed form. Without a GPU the script says so and stops;
``--devices cpu`` measures the CPU alone. Precision is that of ``auto``: mixed on a GPU, 32 bits on a CPU.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable, Iterator

import fine_tuning
import numpy as np
import torch

from nh2st_graph import im
from nh2st_graph.config import Config
from nh2st_graph.models import NH2STGraph
from nh2st_graph.train import SpotBatches, image_only

BATCH = 256


def encoding(device: str, options: argparse.Namespace) -> Callable[[], object]:
    """Encode patches in batches of 64, from memory to memory."""
    (encoder,) = im.make_encoders("timm:resnet18@random", device)
    patches = np.random.default_rng(0).integers(0, 256, (options.patches, 224, 224, 3), dtype=np.uint8)
    return lambda: [encoder.encode(patches[i : i + 64]) for i in range(0, len(patches), 64)]


def training(device: str, options: argparse.Namespace) -> Callable[[], object]:
    """Train an epoch on features, with batches that are copied while others are learned from."""
    graph, network = _on_features(device, options)
    adam = torch.optim.AdamW(network.parameters(), lr=1e-4, foreach=True)

    def epoch() -> None:
        for batch in SpotBatches([graph], BATCH, network.receptive_hops):
            with fine_tuning.autocast(device):
                loss = network.losses(batch.to(device, non_blocking=True))["loss"]
            loss.backward()
            adam.step()
            adam.zero_grad()

    return epoch


def finetuning(device: str, options: argparse.Namespace) -> Callable[[], object]:
    """Take a step of fine-tuning on 64 patches."""
    settings = argparse.Namespace(encoder="resnet18", size=224, device=device)
    return fine_tuning.our_step(fine_tuning.section(64, 224), settings)


def prediction(device: str, options: argparse.Namespace) -> Callable[[], object]:
    """Predict the section from features."""
    graph, network = _on_features(device, options)
    network.eval()
    with torch.no_grad():
        image = image_only(graph).to(device)
    return torch.no_grad()(lambda: network.predict(image).cpu())


def _on_features(device: str, options: argparse.Namespace) -> tuple[object, NH2STGraph]:
    graph = fine_tuning.section(options.spots, 1)
    del graph.patches
    network = NH2STGraph(Config().override(["model.closed_form=false"]).model, graph.x.shape[1], fine_tuning.N_GENES)
    network.prepare([graph])
    return graph, network.to(device).train()


#: What is measured, and how many of what one call handles.
TASKS: dict[str, tuple[Callable[[str, argparse.Namespace], Callable[[], object]], Callable[..., int], str]] = {
    "encoding": (encoding, lambda options: options.patches, "patches"),
    "training": (training, lambda options: round(options.spots**0.5) ** 2, "spots"),
    "fine-tuning": (finetuning, lambda options: 64, "patches"),
    "prediction": (prediction, lambda options: round(options.spots**0.5) ** 2, "spots"),
}


def rows(options: argparse.Namespace) -> Iterator[str]:
    """Measure every task on every device, and give the rows of the table."""
    for name, (make, count, unit) in TASKS.items():
        speeds = []
        for device in options.devices:
            torch.manual_seed(0)
            call = make(device, options)
            fine_tuning.seconds(call, device)
            times = [fine_tuning.seconds(call, device) for _ in range(options.repeats)]
            speeds.append(count(options) / statistics.median(times))
        shown = " | ".join(f"{speed:,.0f}" for speed in speeds)
        yield f"| {name}, {unit} a second | {shown} | {speeds[-1] / speeds[0]:.1f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spots", type=int, default=10_000)
    parser.add_argument("--patches", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--devices", nargs="+", default=["cpu", "cuda"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not torch.cuda.is_available() and any(each.startswith("cuda") for each in options.devices):
        print("no GPU here, and nothing was measured; --devices cpu measures the CPU")
        return
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"{name}; CPU with {options.threads} threads; torch {torch.__version__}; medians of {options.repeats}:\n")
    print(f"| | {' | '.join(options.devices)} | last / first |\n| --- |{' ---: |' * (len(options.devices) + 1)}")
    for row in rows(options):
        print(row)


if __name__ == "__main__":
    main()
