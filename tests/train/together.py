"""Two processes that train together: a script that the tests run, and parts that they also use in one process."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nh2st_graph  # noqa: F401, before the libraries of which it loads less than they do

# isort: split
import lightning.pytorch as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from torch_geometric.data import Data

from nh2st_graph import tl
from nh2st_graph.config import Config, ModelConfig, TrainConfig, load_config
from nh2st_graph.models import NH2STGraph
from nh2st_graph.nn import gathered, info_nce
from nh2st_graph.train import SpotBatches, start_processes
from nh2st_graph.train._module import Averaging, EpochLog, SectionData, TrainingModule

#: Numbers of spots of two sections, which make seven batches of unequal sizes: one is taken twice in an epoch.
SIZES, BATCH_SPOTS, SEED = (50, 37), 13, 3
SETTINGS = TrainConfig(devices=2, device="cpu", learning_rate=1e-2)


class StoppedError(Exception):
    """Stops a run."""


def graph(n_spots: int, seed: int) -> Data:
    generator = torch.Generator().manual_seed(seed)
    edges = torch.randint(n_spots, (2, 4 * n_spots), generator=generator)
    x = torch.randn(n_spots, 5, generator=generator)
    return Data(
        x=x.double(),
        y=(x @ torch.randn(5, 7, generator=generator)).double(),
        edge_index=edges,
        edge_attr=torch.rand(edges.shape[1], 3, generator=generator).double(),
        pos=torch.rand(n_spots, 2, generator=generator).double(),
        section=f"S{seed}",
        num_nodes=n_spots,
    )


def sections() -> list[Data]:
    return [graph(size, seed) for seed, size in enumerate(SIZES)]


def module(negatives: str) -> TrainingModule:
    torch.manual_seed(0)
    config = ModelConfig(width=8, n_components=4, heads=2, dropout=0.0, learn_temperature=True, negatives=negatives)
    network = NH2STGraph(config, 5, 7).double()
    network.set_targets(torch.cat([each.y for each in sections()]))
    return TrainingModule(network, SETTINGS, SEED)


def join(parts: list[Data]) -> Data:
    """Put batches beside each other in one graph."""
    starts = [0]
    for part in parts:
        starts.append(starts[-1] + int(part.num_nodes))
    shifted = {
        name: [part[name] + start for part, start in zip(parts, starts, strict=False)]
        for name in ("edge_index", "seeds")
    }
    return Data(
        **{name: torch.cat([part[name] for part in parts]) for name in ("x", "y", "edge_attr")},
        edge_index=torch.cat(shifted["edge_index"], dim=1),
        seeds=torch.cat(shifted["seeds"]),
        num_nodes=starts[-1],
    )


class Joined(IterableDataset[Data]):
    """What several processes see in each step, in one batch."""

    def __init__(self, shares: list[SpotBatches]) -> None:
        self.shares = shares

    def __len__(self) -> int:
        return len(self.shares[0])

    def __iter__(self) -> Iterator[Data]:
        yield from (join(list(parts)) for parts in zip(*self.shares, strict=True))


class JoinedData(SectionData):
    def train_dataloader(self) -> Any:
        how = (self._cut, self.batch_spots, self.hops, self.seed, self.trainer.current_epoch)
        return DataLoader(Joined([SpotBatches(*how, rank=rank, ranks=2) for rank in range(2)]), batch_size=None)


class InPieces(SectionData):
    """The larger section is cut into pieces, the other is not."""

    def train_dataloader(self) -> Any:
        how = (self._cut, self.batch_spots, self.hops, self.seed, self.trainer.current_epoch)
        ranks = {"rank": self.trainer.global_rank, "ranks": self.trainer.world_size}
        return DataLoader(SpotBatches(*how, **ranks, large=max(SIZES)), batch_size=None)


def steps(folder: Path, negatives: str, data: type[SectionData] = SectionData, **options: Any) -> dict[str, Any]:
    """Take some steps; give the weights, their average, and the log."""
    learner = module(negatives)
    averaging, log = Averaging(0.9, "val_loss"), EpochLog(folder / "log.csv", "all")
    trainer = L.Trainer(
        max_epochs=2,
        callbacks=[averaging, log],
        accelerator="cpu",
        precision="64-true",
        gradient_clip_val=1.0,
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
        **options,
    )
    trainer.fit(learner, datamodule=data(sections(), [graph(20, 9)], BATCH_SPOTS, learner.model.receptive_hops, SEED))
    weights = {name: value.detach().clone() for name, value in learner.model.state_dict().items()}
    return {"weights": weights, "best": averaging.best, "rows": log.rows, "steps": trainer.global_step}


def loss_of(rows: Tensor) -> Tensor:
    """A loss that depends on all pairs of spots."""
    return info_nce(rows, rows.roll(1, dims=1) + rows.square())


def gradient_of_gathered(rank: int) -> Tensor:
    """Gradient of this process's rows under the sum of the losses of both, of which each sees all rows."""
    generator = torch.Generator().manual_seed(1)
    own = list(torch.randn(7, 3, generator=generator, dtype=torch.float64).split([4, 3]))[rank].requires_grad_()
    ((rank + 1) * loss_of(gathered(own, [4, 3]))).backward()
    assert own.grad is not None
    return own.grad


def whole_run(out: Path, config: Config) -> None:
    """Train into a folder; and into another one, stopped in the middle and resumed."""
    tl.train_run(config, out / "run")
    write = EpochLog.on_train_epoch_end

    def stop(self: EpochLog, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.stage.startswith("fold2") and trainer.current_epoch == 1:
            raise StoppedError
        write(self, trainer, pl_module)

    EpochLog.on_train_epoch_end = stop  # type: ignore[method-assign]
    try:
        tl.train_run(config, out / "stopped")
    except StoppedError:
        EpochLog.on_train_epoch_end = write  # type: ignore[method-assign]
        tl.train_run(config, out / "stopped", resume=True)


def run_as_script(out: Path, root: Path) -> None:
    """Be the command that runs this file, in a process that has loaded the libraries already."""
    sys.argv = [__file__, str(out)]
    os.environ.pop("LOCAL_RANK", None)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    main()


def main() -> None:
    out = Path(sys.argv[1])
    processes = start_processes(SETTINGS)
    torch.set_num_threads(1)
    found: dict[str, Any] = {
        negatives: steps(out, negatives, **processes.trainer_options()) for negatives in ("batch", "section")
    }
    found["pieces"] = steps(out, "batch", InPieces, **processes.trainer_options())
    found["gradient"] = gradient_of_gathered(processes.rank)
    whole_run(out, load_config(out / "config.yaml"))
    found["loaded"] = [name for name in ("torchvision", "transformers") if name in sys.modules]
    torch.save(found, out / f"rank{processes.rank}.pt")
    sys.stdout.flush()
    atexit.register(os._exit, 0)  # to take the libraries apart takes 2 s


if __name__ == "__main__":
    main()
