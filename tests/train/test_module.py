"""The parts of the training loop: the log, early stopping, averaging, checkpoints."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as L
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import LambdaCallback
from matplotlib import pyplot as plt
from rich.progress import Progress
from torch.optim.swa_utils import AveragedModel
from torch_geometric.data import Data

from nh2st_graph import Config, ModelError, pl
from nh2st_graph.config import ModelConfig, TrainConfig
from nh2st_graph.models import NH2STGraph
from nh2st_graph.train import one_thread
from nh2st_graph.train._checkpoints import averaged_weights
from nh2st_graph.train._keep import Keep
from nh2st_graph.train._module import (
    LOG_COLUMNS,
    Averaging,
    EpochLog,
    EpochProgress,
    SectionData,
    StopEarly,
    TrainingModule,
    _averaged_by,
    log_columns,
    read_rows,
)

State = dict[str, torch.Tensor]


def graph(n_spots: int, seed: int, sign: float = 1.0) -> Data:
    """A section whose genes follow its features, or their opposite."""
    generator = torch.Generator().manual_seed(seed)
    edges = torch.randint(n_spots, (2, 4 * n_spots), generator=generator)
    x = torch.randn(n_spots, 5, generator=generator)
    return Data(
        x=x,
        y=sign * x @ torch.linspace(-1, 1, 35).view(5, 7),
        counts=torch.randint(9, (n_spots, 7), generator=generator).float(),
        library=100 + torch.rand(n_spots, 1, generator=generator),
        edge_index=edges,
        edge_attr=torch.rand(edges.shape[1], 3, generator=generator),
        section=f"S{seed}",
        num_nodes=n_spots,
    )


@pytest.fixture
def train(tmp_path) -> Callable[..., TrainingModule]:
    """Train a small model on two sections and watch a third, on which it does the worse the more it learns."""

    def run(
        *callbacks: L.Callback, epochs: int = 4, rate: float = 0.05, change: float | None = None, **switches: Any
    ) -> TrainingModule:
        torch.manual_seed(0)
        sections = [graph(20, 1), graph(12, 2)]
        model = NH2STGraph(ModelConfig(width=8, n_components=4, heads=2, **switches), 5, 7)
        model.set_targets(torch.cat([section.y for section in sections]))
        sections = [*model.training_graphs(sections)] if switches else sections
        if change is not None:
            sections[0].x[3, 2] = change
        trainer = L.Trainer(
            max_epochs=epochs,
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=any(isinstance(each, Keep) for each in callbacks),
            default_root_dir=tmp_path,
            accelerator="cpu",
            reload_dataloaders_every_n_epochs=1,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        module = TrainingModule(model, TrainConfig(learning_rate=rate), seed=7)
        data = SectionData(sections, [graph(15, 3, -1.0)], 8, model.receptive_hops, seed=7)
        with one_thread():
            trainer.fit(module, datamodule=data)
        return module

    return run


class Watch(L.Callback):
    """Remember the weights after each step, the held-out errors, and what each epoch saw."""

    def __init__(self) -> None:
        self.weights: list[State] = []
        self.steps: list[int] = []
        self.errors: list[float] = []
        self.spots: list[list[float]] = [[]]

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.spots[-1].append(batch.library[batch.seeds, 0].tolist())

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.weights.append({name: value.clone() for name, value in pl_module.model.state_dict().items()})

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        self.errors.append(float(trainer.callback_metrics["val_loss"]))
        self.steps.append(len(self.weights))
        self.spots.append([])


def moving_average(weights: list[State], decay: float) -> list[State]:
    """After each step, in a plain loop."""
    averages = [weights[0]]
    for state in weights[1:]:
        last = averages[-1]
        averages.append({name: decay * last[name] + (1 - decay) * value for name, value in state.items()})
    return averages


class TestAveraging:
    @pytest.mark.parametrize("decay", [0.0, 0.6])
    def test_is_of_the_weights_after_each_step_and_keeps_those_of_the_best_epoch(self, train, tmp_path, decay):
        watch, averaging = Watch(), Averaging(decay, "val_loss")
        train(watch, averaging, Keep(tmp_path, 0.0), rate=0.02, epochs=6)
        averages = moving_average(watch.weights, decay)
        best = int(np.argmin(watch.errors))
        assert best < 5, "the best epoch is not the last"
        for expected, kept in (
            (averages[-1], averaged_weights(tmp_path / "last.ckpt")),
            (averages[watch.steps[best] - 1], averaged_weights(tmp_path / "last.ckpt", best=True)),
        ):
            assert kept.keys() == expected.keys()
            for name, value in expected.items():
                torch.testing.assert_close(kept[name], value, msg=lambda text, name=name: f"{name}: {text}")
        assert averaging.lowest == min(watch.errors)

    def test_held_out_error_is_that_of_the_averaged_weights(self, train, tmp_path):
        watch = Watch()
        module = train(watch, Averaging(0.6, "val_loss"), Keep(tmp_path, 0.0))
        section = graph(15, 3, -1.0)
        module.model.load_state_dict(averaged_weights(tmp_path / "last.ckpt"))
        with torch.no_grad():
            predicted = module.model.eval()(section.x, section.edge_index, section.edge_attr).expression
        assert float(torch.nn.functional.mse_loss(predicted, section.y)) == pytest.approx(watch.errors[-1], rel=1e-5)

    def test_what_was_best_travels_in_its_state(self):
        averaging = Averaging(0.5, "val_loss")
        averaging.lowest, averaging.best = 0.25, {"weight": torch.ones(2)}
        again = Averaging(0.5, "val_loss")
        again.load_state_dict(averaging.state_dict())
        assert again.lowest == 0.25
        assert torch.equal(again.best["weight"], torch.ones(2))


class TestCheckpoints:
    @pytest.mark.parametrize(("seconds", "written"), [(0.0, [1, 2, 3]), (3600.0, [3])])
    def test_are_written_when_it_is_time_and_at_the_end(self, train, tmp_path, seconds, written):
        file, found = tmp_path / "last.ckpt", set()

        class Look(L.Callback):
            def on_train_epoch_start(self, trainer, pl_module) -> None:
                found.update({torch.load(file, weights_only=True)["epoch"] + 1} if file.exists() else ())

        train(Averaging(0.5), Look(), Keep(tmp_path, seconds), epochs=3)
        assert sorted(found | {torch.load(file, weights_only=True)["epoch"] + 1}) == written
        assert [path.name for path in tmp_path.glob("*.ckpt")] == ["last.ckpt"]


class TestData:
    def test_each_epoch_has_an_order_of_its_own_and_a_second_run_the_same(self, train):
        first, second = Watch(), Watch()
        train(first)
        train(second)
        assert first.spots == second.spots
        assert first.spots[0] != first.spots[1]
        everything = sorted(torch.cat([graph(20, 1).library, graph(12, 2).library])[:, 0].tolist())
        for epoch in first.spots[:-1]:
            assert sorted(spot for batch in epoch for spot in batch) == everything
        assert all(torch.equal(a[n], b[n]) for a, b in zip(first.weights, second.weights, strict=True) for n in a)

    def test_nothing_to_watch_is_no_loader(self):
        assert SectionData([graph(20, 1)], [], 8, 1, 0).val_dataloader() == []


def test_batches_are_compared_with_spots_of_all_sections_in_training_alone(train):
    seen = []
    watch = LambdaCallback(on_train_batch_start=lambda _, module, *__: seen.append([*module.model._others]))
    model = train(watch, epochs=1, negatives="depth", closed_form=False).model
    assert [len(part.seeds) for part in seen[0]] == [20, 12]
    assert all(a is b for step in seen for a, b in zip(step, seen[0], strict=True))
    assert not model._others


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_training(train, value):
    where = r"at step \d \(epoch 0\) of section 'S1' \(not finite: input 'x'\); lower learning_rate"
    with pytest.raises(ModelError, match=f"training loss is nan {where}"):
        train(change=value)


def test_a_gradient_that_is_no_number_ends_training(train):
    class Spoil(L.Callback):
        def on_after_backward(self, trainer, pl_module) -> None:
            if trainer.global_step == 2:
                next(pl_module.model.parameters()).grad[:] = float("inf")

    with pytest.raises(ModelError, match=r"gradient of weight '\S+' is not finite at step 2 \(epoch 0\) of section 'S"):
        train(Spoil())


def a_row(stage: str, epoch: int) -> dict[str, object]:
    return dict.fromkeys(LOG_COLUMNS, f"{epoch}.5") | {"stage": stage, "epoch": epoch, "step": 7 * epoch}


def trainer(epoch: int, **metrics: float) -> SimpleNamespace:
    return SimpleNamespace(current_epoch=epoch, global_step=3, callback_metrics=metrics, is_global_zero=True)


@pytest.fixture
def log(tmp_path) -> Path:
    """A log of two stages of three epochs."""
    path = tmp_path / "log.csv"
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, LOG_COLUMNS)
        writer.writeheader()
        writer.writerows(a_row(stage, epoch) for stage in ("fold1:A", "all") for epoch in (1, 2, 3))
    return path


class TestLog:
    def test_no_file_is_no_row(self, tmp_path):
        assert read_rows(tmp_path / "none.csv") == []
        (tmp_path / "empty.csv").touch()
        assert read_rows(tmp_path / "empty.csv") == []

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(share=st.floats(0, 1))
    def test_cut_off_anywhere_keeps_whole_rows_and_takes_more(self, log, share):
        whole, rows = log.read_bytes(), read_rows(log)
        cut = log.with_name("cut.csv")
        cut.write_bytes(whole[: round(share * len(whole))])
        kept = read_rows(cut)
        complete = cut.read_bytes().count(b"\n") - 1
        # The last column may have lost digits: the checkpoint tells then that the epoch was not over.
        assert len(kept) - max(complete, 0) in (0, 1)
        assert kept[: max(complete, 0)] == rows[: max(complete, 0)]
        self.start(cut, "new", 0)
        self.end(cut, "new", 0, val_loss=0.25)
        assert read_rows(cut)[-1]["val_loss"] == "0.25"
        assert read_rows(cut)[:-1] == kept

    @pytest.mark.parametrize(("covered", "left"), [(0, []), (2, ["1", "2"]), (3, ["1", "2", "3"])])
    def test_resuming_takes_out_what_the_checkpoint_does_not_cover(self, log, covered, left):
        self.start(log, "all", covered)
        rows = read_rows(log)
        assert [row["epoch"] for row in rows if row["stage"] == "all"] == left
        assert [row["epoch"] for row in rows if row["stage"] == "fold1:A"] == ["1", "2", "3"]
        assert not log.with_suffix(".tmp").exists()

    def test_a_row_is_an_epochs_means(self, train, tmp_path):
        path, watch = tmp_path / "log.csv", Watch()
        train(watch, EpochLog(path, "fold1:A"), epochs=3)
        rows = read_rows(path)
        assert [(row["stage"], row["epoch"], row["step"]) for row in rows] == [
            ("fold1:A", str(epoch), str(step)) for epoch, step in zip((1, 2, 3), watch.steps, strict=True)
        ]
        assert [float(row["val_loss"]) for row in rows] == pytest.approx(watch.errors, rel=1e-5)
        for row in rows:
            assert tuple(row) == log_columns(NH2STGraph)
            assert all(np.isfinite(float(row[name])) for name in list(row)[1:]), row

    @pytest.mark.parametrize("names", [["correlation"], ["correlation", "rank"], ["val_loss"]])
    def test_a_part_that_is_new_in_a_later_row_gets_a_column(self, log, names):
        before, callback = read_rows(log), EpochLog(log, "new")
        callback.on_train_start(trainer(0), None)
        callback.on_train_epoch_end(trainer(0, train_loss=2.0), None)
        for epoch in (1, 2):
            callback.on_train_epoch_end(trainer(epoch, train_loss=1.0, **dict.fromkeys(names, 0.25)), None)
        rows = read_rows(log)
        own = [name for name in names if name not in LOG_COLUMNS]
        assert list(rows[0]) == [*LOG_COLUMNS, *own]
        assert rows[: len(before)] == [row | dict.fromkeys(own, "") for row in before], "nothing of them is lost"
        new = rows[len(before) :]
        assert [(row["stage"], row["epoch"], row["train_loss"]) for row in new] == [
            ("new", "1", "2"), ("new", "2", "1"), ("new", "3", "1")
        ]  # fmt: skip
        assert [[row[name] for name in names] for row in new] == [[""] * len(names), *[["0.25"] * len(names)] * 2]
        assert not log.with_suffix(".tmp").exists()

    @pytest.mark.parametrize("covered", [0, 1, 3])
    def test_resuming_gives_the_log_of_a_run_that_was_not_interrupted(self, tmp_path, covered):
        """With one part from the second epoch on, and another in the stage that follows."""
        parts = {1: {}, 2: {"correlation": 0.5}, 3: {"correlation": 0.25}}

        def write(path: Path, stage: str, start: int, **more: float) -> None:
            callback = EpochLog(path, stage)
            callback.on_train_start(trainer(start), None)
            for epoch in range(start, 3):
                callback.on_train_epoch_end(trainer(epoch, train_loss=1.0, **parts[epoch + 1], **more), None)

        whole, killed = tmp_path / "whole.csv", tmp_path / "killed.csv"
        for path in (whole, killed):
            write(path, "fold1:A", 0)
            write(path, "all", 0, rank=3.0)
        with killed.open("a") as handle:
            handle.write("all,4,")
        write(killed, "all", covered, rank=3.0)
        assert killed.read_text() == whole.read_text()
        write(killed, "fold1:A", covered)
        assert {tuple(row.items()) for row in read_rows(killed)} == {tuple(row.items()) for row in read_rows(whole)}

    def test_a_networks_own_part_reaches_the_log_and_the_curves(self, train, tmp_path, monkeypatch):
        """Also one that some steps of an epoch have, and others not."""
        original, given = NH2STGraph.losses, []

        def losses(self: NH2STGraph, data: Data) -> dict[str, torch.Tensor]:
            found = original(self, data)
            if data.section == "S2":
                found["correlation"] = torch.tensor(float(len(given) + 1))
                given.append(found["correlation"])
            return found

        monkeypatch.setattr(NH2STGraph, "losses", losses)
        path = tmp_path / "log.csv"
        train(EpochLog(path, "fold1:A"), epochs=2)
        log = pd.read_csv(path)
        assert list(log.columns) == [*log_columns(NH2STGraph), "correlation"]
        first, second = np.split(np.array(given, dtype=float), 2)
        np.testing.assert_allclose(log["correlation"], [first.mean(), second.mean()], rtol=1e-5)
        figure = pl.training_curves(log)
        assert [ax.get_title() for ax in figure.axes] == [
            "Training loss",
            "Held-out error",
            "Held-out score",
            "Contrastive loss",
        ]
        plt.close(figure)

    @staticmethod
    def start(path: Path, stage: str, epoch: int) -> None:
        EpochLog(path, stage).on_train_start(trainer(epoch), None)

    @staticmethod
    def end(path: Path, stage: str, epoch: int, **metrics: float) -> None:
        EpochLog(path, stage).on_train_epoch_end(trainer(epoch, **metrics), None)


class TestWhatIsAveraged:
    def test_whole_numbers_are_those_of_the_last_step(self):
        """An index or a count, half way between two values, would be neither."""
        module = torch.nn.BatchNorm1d(2)
        module.register_buffer("index", torch.tensor([3, 8]))
        averaged = AveragedModel(module, multi_avg_fn=_averaged_by(0.5), use_buffers=True)
        averaged.update_parameters(module)
        with torch.no_grad():
            module.weight += 1.0
            module.running_mean += 4.0
            module.index += 5
        averaged.update_parameters(module)
        assert averaged.module.index.tolist() == [8, 13]
        torch.testing.assert_close(averaged.module.weight, torch.full((2,), 1.5))
        torch.testing.assert_close(averaged.module.running_mean, torch.full((2,), 2.0))


class TestStopping:
    def test_ends_when_the_error_stops_falling(self, train):
        watch = Watch()
        train(watch, StopEarly("val_loss", patience=1), epochs=30, rate=0.5)
        assert len(watch.errors) < 30
        assert watch.errors[-1] >= min(watch.errors[:-1])

    @pytest.mark.parametrize(("waited", "stops"), [(0, False), (1, False), (2, True)])
    def test_a_checkpoint_of_the_last_epoch_stops_at_once(self, waited, stops):
        trainer, stop = SimpleNamespace(should_stop=False), StopEarly("val_loss", patience=2)
        stop.wait_count = waited
        stop.on_train_start(trainer, None)
        assert trainer.should_stop is stops


def test_progress_counts_epochs_and_shows_the_held_out_score(train):
    progress = Progress(disable=True)
    task = progress.add_task("train", total=4, note="")
    train(EpochProgress(progress, task))
    assert progress.tasks[0].finished
    assert progress.tasks[0].fields["note"].startswith("held-out r ")


def test_the_learning_rate_falls_in_steps():
    network = NH2STGraph(Config().model, 5, 7)
    train = Config().change({"train.decay_epochs": 3, "train.learning_rate": 1.0}).train
    parts = TrainingModule(network, train, 0).configure_optimizers()
    scheduler, rates = parts["lr_scheduler"]["scheduler"], []
    assert parts["lr_scheduler"]["interval"] == "epoch"
    for _ in range(7):
        rates.append(scheduler.get_last_lr()[0])
        parts["optimizer"].step()
        scheduler.step()
    assert rates == pytest.approx([1, 1, 1, 0.9, 0.9, 0.9, 0.81])
    assert isinstance(TrainingModule(network, Config().train, 0).configure_optimizers(), torch.optim.AdamW)
