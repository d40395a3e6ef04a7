"""A run that was killed and resumed is the run that was not."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from anndata import AnnData
from safetensors.torch import load_file

from nh2st_graph import RunError, __version__, read, tl
from nh2st_graph.cli import main
from nh2st_graph.config import Config
from nh2st_graph.tl import FittedModel
from nh2st_graph.train import EpochLog, Keep

from .slowly import train_slowly

#: One more than a stage has had when its process is killed.
EPOCHS = 3
#: A checkpoint after each epoch.
EACH_EPOCH = "train.checkpoint_seconds=0"


@pytest.fixture(scope="module")
def config(tiny_config: Config, tiny_run, tiny_sections, tmp_path_factory) -> Config:
    """A run without what other tests look at."""
    # Each process would draw the tissue of a synthetic run, and compile what scanpy chooses genes with.
    folder = tmp_path_factory.mktemp("given")
    (folder / "panel.txt").write_text("\n".join(tiny_run.model.genes))
    for name, section in tiny_sections.items():
        some = section[::3].copy()
        (entry,) = some.uns["spatial"].values()
        entry["images"]["hires"] = entry["images"]["hires"][::4, ::4]
        entry["scalefactors"]["tissue_hires_scalef"] /= 4
        read.write_h5ad(some, folder / "sections" / f"{name}.h5ad")
    changes = [
        "data.format=h5ad",
        f"data.root={folder / 'sections'}",
        f"data.panel={folder / 'panel.txt'}",
        f"train.max_epochs={EPOCHS}",
        f"train.patience={EPOCHS}",
        "evaluate.baselines=false",
        "evaluate.figures=false",
    ]
    return tiny_config.override(changes)


@pytest.fixture(scope="module")
def uninterrupted(config, tmp_path_factory) -> Path:
    return tl.train_run(config, tmp_path_factory.mktemp("whole") / "run").folder


@pytest.mark.slow
class TestKilled:
    """For real: a process that runs ``nh2st-graph train``, and SIGKILL."""

    @pytest.fixture(scope="class")
    def train_until(self, forkserver) -> Callable[..., None]:
        """Run ``train`` in a process of its own, and kill it when a stage has logged some epochs."""

        def run(arguments: list[str], folder: Path, stage: str, epochs: int) -> None:
            process = forkserver.Process(target=train_slowly, args=(arguments, stage, epochs))
            process.start()
            deadline = time.monotonic() + 120
            while process.is_alive() and time.monotonic() < deadline and logged(folder, stage) < epochs:
                time.sleep(0.005)
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL, "it ended by itself"
            assert logged(folder, stage) >= epochs
            checkpoints = folder / "checkpoints" / stage
            assert not (checkpoints / "done.json").exists(), "the stage was over before the signal came"

        return run

    def test_twice_gives_the_same_model_and_scores(self, train_until, config, uninterrupted, tmp_path):
        file, folder = tmp_path / "config.yaml", tmp_path / "run"
        file.write_text(config.to_yaml())
        command = ["train", str(file), "--out", str(folder)]
        train_until([*command, "--set", EACH_EPOCH], folder, "fold2", EPOCHS - 1)
        assert (folder / "checkpoints" / "fold1" / "done.json").exists()
        assert not (folder / "model.safetensors").exists()
        train_until([*command, "--set", EACH_EPOCH, "--resume"], folder, "all", EPOCHS - 1)
        with pytest.raises(SystemExit) as end:
            main([*command, "--resume"])
        assert end.value.code == 0
        assert_same_run(folder, uninterrupted)

    def test_a_finished_run_resumes_to_itself(self, config, uninterrupted, tmp_path):
        folder = tmp_path / "moved"
        shutil.copytree(uninterrupted, folder)
        (folder / "metrics.json").unlink()
        assert_same_run(tl.train_run(config, folder, resume=True).folder, uninterrupted)


def logged(folder: Path, stage: str) -> int:
    """Epochs of a stage that a run's log shows."""
    log = folder / "log.csv"
    return sum(line.startswith(stage) for line in log.read_text().splitlines()) if log.exists() else 0


def assert_same_run(found: Path, expected: Path) -> None:
    assert (found / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()
    for name in ("model.json", "log.csv", "metrics_per_gene.csv"):
        assert (found / name).read_text() == (expected / name).read_text(), name
    assert json.loads((found / "metrics.json").read_text()) == json.loads((expected / "metrics.json").read_text())


#: As the log calls them.
STAGES = ("fold1:S1", "fold2:S2", "all")


class TestAnyMoment:
    """The moments that a signal seldom meets: one fit is copied at each, which is all that a killed one leaves."""

    @pytest.fixture(scope="class")
    def train(self, tiny_sections) -> dict[str, AnnData]:
        return {name: tiny_sections[name] for name in ("S1", "S2")}

    @pytest.fixture(scope="class")
    def genes(self, tiny_run) -> list[str]:
        """Chosen before, as each fit would choose them anew."""
        return list(tiny_run.model.genes)

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory) -> Path:
        """Where the fit goes on, as if it had been killed: in the same place."""
        return tmp_path_factory.mktemp("fit")

    @pytest.fixture(scope="class")
    def copies(self, tmp_path_factory) -> Path:
        return tmp_path_factory.mktemp("moments")

    @pytest.fixture(scope="class")
    def fitted(self, train, genes, tiny_config, folder, copies) -> tuple[Config, FittedModel]:
        """A fit whose folds stop early, and whose best epochs are neither the first nor the last.

        Which settings lead there, the libraries decide: the first of some whose log shows it.
        """
        for seed, rate, decay in product((0, 1, 2), (0.03, 0.04, 0.06), (0.1, 0.6)):
            config = tiny_config.override(
                [
                    "model.closed_form=false",
                    "model.contrast=none",
                    "model.cross_attention=none",
                    "train.max_epochs=12",
                    "train.patience=1",
                    f"seed={seed}",
                    f"train.learning_rate={rate}",
                    f"train.ema_decay={decay}",
                    EACH_EPOCH,
                ]
            )
            for each in (folder, copies):
                shutil.rmtree(each)
                each.mkdir()
            with pytest.MonkeyPatch.context() as patch:
                copied_at_every_moment(patch, folder, copies)
                model = tl.fit(train, config, genes=genes, out=folder)
            folds = [model.log[model.log["stage"] == stage].set_index("epoch")["val_loss"] for stage in STAGES[:2]]
            stopped = all(len(error) < 12 and 1 < error.idxmin() < len(error) for error in folds)
            if stopped and model.selected_epochs > 1:
                return config, model
        raise AssertionError("no settings give such folds")

    @pytest.fixture(scope="class")
    def config(self, fitted) -> Config:
        return fitted[0]

    @pytest.fixture(scope="class")
    def expected(self, fitted) -> FittedModel:
        return fitted[1]

    @pytest.fixture
    def killed(self, folder, copies, expected) -> Callable[[str], Path]:
        """Put the folder back as it was at a moment."""

        def run(moment: str) -> Path:
            shutil.rmtree(folder, ignore_errors=True)
            return Path(shutil.copytree(copies / moment, folder))

        return run

    @pytest.fixture
    def assert_goes_on(self, train, genes, config, expected) -> Callable[[Path], None]:
        def check(folder: Path) -> None:
            found = tl.fit(train, config, genes=genes, out=folder, resume=True)
            pd.testing.assert_frame_equal(found.log, expected.log)
            assert found.selected_epochs == expected.selected_epochs
            assert found.hpg50 == expected.hpg50
            for name, value in expected.module.state_dict().items():
                assert torch.equal(found.module.state_dict()[name], value), name

        return check

    # Before its first checkpoint a stage has not begun, which is another test's.
    @pytest.mark.parametrize(
        ("moment", "which"),
        [
            ("after last", "first"),
            ("before last", "best"),
            ("after last", "best"),
            ("before last", "last"),
            ("after last", "last"),
        ],
    )
    def test_around_the_checkpoints_of_a_fold(self, killed, assert_goes_on, expected, moment, which):
        error = expected.log[expected.log["stage"] == STAGES[0]].set_index("epoch")["val_loss"]
        epoch = {"first": 1, "best": error.idxmin(), "last": len(error)}[which]
        assert_goes_on(killed(f"fold1, epoch {epoch}, {moment}"))

    @pytest.mark.parametrize(
        ("moment", "which"), [("before last", "last"), ("after last", "first"), ("after last", "last")]
    )
    def test_around_the_checkpoint_of_the_final_fit(self, killed, assert_goes_on, expected, moment, which):
        epoch = 1 if which == "first" else expected.selected_epochs
        assert_goes_on(killed(f"all, epoch {epoch}, {moment}"))

    @pytest.mark.parametrize("stage", ["fold1", "all"])
    def test_between_the_last_epoch_and_the_note_that_a_stage_is_done(self, killed, assert_goes_on, stage):
        assert_goes_on(killed(f"{stage}, before done"))

    @pytest.mark.parametrize("stage", ["fold2", "all"])
    def test_between_two_stages(self, killed, assert_goes_on, stage):
        assert_goes_on(killed(f"{stage}, before it begins"))

    def test_in_the_middle_of_a_line_of_the_log(self, killed, assert_goes_on):
        folder = killed("fold2, epoch 3, before last")
        log = folder / "log.csv"
        text = log.read_text()
        assert text.splitlines()[-1].startswith("fold2:S2,3,")
        log.write_text(text[: text.rindex("\n", 0, -1) + len("\nfold2:S2,1")])  # of 13, say
        assert_goes_on(folder)

    def test_in_a_folder_that_is_moved_before_it_goes_on(self, killed, assert_goes_on, expected, tmp_path):
        """The checkpoint of the best epoch is known by its old path then."""
        last = int(expected.log[expected.log["stage"] == "fold1:S1"]["epoch"].max())
        assert_goes_on(killed(f"fold1, epoch {last - 1}, after last").rename(tmp_path / "new"))


def copied_at_every_moment(patch: pytest.MonkeyPatch, folder: Path, copies: Path) -> None:
    """Copy a fit's folder as each stage begins, around the checkpoint of each epoch (from 1 on), and at its end."""
    begin, keep, write = EpochLog.__init__, Keep.on_train_epoch_end, Path.write_text

    def copying_begin(self, path: Path, stage: str) -> None:
        shutil.copytree(folder, copies / f"{stage.partition(':')[0]}, before it begins")
        begin(self, path, stage)

    def copying_keep(self, trainer, module) -> None:
        moment = f"{Path(self.dirpath).name}, epoch {trainer.current_epoch + 1}"
        shutil.copytree(folder, copies / f"{moment}, before {self.filename}")
        keep(self, trainer, module)
        shutil.copytree(folder, copies / f"{moment}, after {self.filename}")

    def copying_write(path: Path, *args, **kwargs):
        if path.name.startswith(".done.json."):  # which is written aside
            shutil.copytree(folder, copies / f"{path.parent.name}, before done")
        return write(path, *args, **kwargs)

    patch.setattr(EpochLog, "__init__", copying_begin)
    patch.setattr(Keep, "on_train_epoch_end", copying_keep)
    patch.setattr(Path, "write_text", copying_write)


class TestInterrupted:
    """Ctrl-C."""

    @pytest.fixture
    def interrupted(self) -> Callable[[], AbstractContextManager[None]]:
        """Where Ctrl-C is pressed after the first epoch of the final fit."""
        original = EpochLog.on_train_epoch_end

        def log(self, trainer, module) -> None:
            original(self, trainer, module)
            if self.stage == "all":
                signal.raise_signal(signal.SIGINT)

        @contextmanager
        def patched() -> Iterator[None]:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(EpochLog, "on_train_epoch_end", log)
                yield

        return patched

    def test_a_run_says_how_to_go_on(self, interrupted, config, uninterrupted, tmp_path, capsys):
        file, folder = tmp_path / "config.yaml", tmp_path / "run"
        file.write_text(config.to_yaml())
        with pytest.raises(SystemExit) as end, interrupted():
            main(["train", str(file), "--out", str(folder)])
        assert end.value.code == 130
        assert "--resume" in capsys.readouterr().err.splitlines()[-1]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "Lightning would ignore the next one"
        assert_same_run(tl.train_run(config, folder, resume=True).folder, uninterrupted)

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_in_the_middle_of_an_epoch_this_epoch_is_kept(
        self, config, uninterrupted, tmp_path, capsys, monkeypatch, number
    ):
        """Though no checkpoint was due."""
        at = []

        def signalled(_, trainer, module, batch, index):
            if trainer.current_epoch == 0 and index == 0 and not at:
                at.append(trainer.global_step)
                signal.raise_signal(number)

        monkeypatch.setattr(EpochLog, "on_train_batch_start", signalled)
        file, folder = tmp_path / "config.yaml", tmp_path / "run"
        file.write_text(config.to_yaml())
        with pytest.raises(SystemExit) as end:
            main(["train", str(file), "--out", str(folder)])
        assert end.value.code == 128 + number
        path = folder / "checkpoints" / "fold1" / "last.ckpt"
        said = capsys.readouterr().err.splitlines()
        assert f"; {path} holds 1 of at most {EPOCHS} epochs; " in said[-1]
        assert torch.load(path, weights_only=True)["epoch"] == 0
        assert_same_run(tl.train_run(config, folder, resume=True).folder, uninterrupted)

    @pytest.mark.parametrize(("epochs", "signals", "seconds"), [(0, 2, 60.0), (2, 2, 60.0), (2, 1, 0.0)])
    def test_the_second_signal_ends_the_epoch_and_so_does_the_time(
        self, config, tmp_path, capsys, monkeypatch, epochs, signals, seconds
    ):
        def signalled(_, trainer, module, batch, index):
            for _ in range(signals * (trainer.current_epoch == epochs)):
                signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(EpochLog, "on_train_batch_start", signalled)
        monkeypatch.setattr("nh2st_graph.train._keep._PATIENCE", seconds)
        file = tmp_path / "config.yaml"
        file.write_text(config.override([EACH_EPOCH]).to_yaml())
        with pytest.raises(SystemExit):
            main(["train", str(file), "--out", str(tmp_path / "run")])
        told = f"holds {epochs} of at most {EPOCHS} epochs" if epochs else "is not written yet"
        assert f"last.ckpt {told}; go on with the same command and --resume" in capsys.readouterr().err

    def test_a_fit_is_interrupted_as_any_python(self, interrupted, tiny_config, tiny_sections):
        with pytest.raises(KeyboardInterrupt), interrupted():
            tl.fit([tiny_sections["S1"], tiny_sections["S2"]], tiny_config)


class TestRefusals:
    def test_another_configuration_is_named(self, tiny_config, tiny_run):
        before = snapshot(tiny_run.folder)
        with pytest.raises(RunError, match=r"another configuration \(learning_rate: 0\.003 -> 0\.1\)"):
            tl.train_run(tiny_config.override(["train.learning_rate=0.1"]), tiny_run.folder, resume=True)
        assert snapshot(tiny_run.folder) == before

    def test_a_folder_that_is_no_run(self, tiny_config, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        for folder in (tmp_path, tmp_path / "none"):
            with pytest.raises(RunError, match=r"holds no run to resume \(config\.yaml is missing\)"):
                tl.train_run(tiny_config, folder, resume=True)
        assert list(tmp_path.iterdir()) == [tmp_path / "notes.txt"]


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): (p.stat().st_size, p.stat().st_mtime_ns) for p in files}


class Killed(BaseException):
    """Stands for the end of the process: nothing in the package catches it."""


def test_killed_while_it_scores(config, uninterrupted, tmp_path, monkeypatch):
    """Model and predictions are there, the scores not yet: no metrics.json says that the run is complete."""

    def end(*_args, **_options):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("nh2st_graph.tl._run.write_report", end)  # the last before the scores
        with pytest.raises(Killed):
            tl.train_run(config, tmp_path / "run")
    assert (tmp_path / "run" / "model.safetensors").exists()
    assert (tmp_path / "run" / "predictions" / "S3.h5ad").exists()
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert_same_run(tl.train_run(config, tmp_path / "run", resume=True).folder, uninterrupted)


def test_the_configuration_of_a_run_is_complete(tiny_run):
    stored = yaml.safe_load((tiny_run.folder / "config.yaml").read_text())
    assert Config.parse(stored) == tiny_run.model.config
    assert {key: stored.pop(key) for key in ("format", "version")} == {"format": 1, "version": __version__}
    assert stored == tiny_run.model.config.model_dump(mode="json")
    assert load_file(tiny_run.folder / "model.safetensors")


@pytest.mark.parametrize(
    ("key", "relative", "absolute"),
    [
        ("data.root", "sections", "{}/sections"),
        ("data.panel", "genes.txt", "{}/genes.txt"),
        (
            "features.encoder",
            "squidpy:summary,timm:resnet18@weights/r18.pth",
            "squidpy:summary,timm:resnet18@{}/weights/r18.pth",
        ),
        ("features.encoder", "timm-map:local-dir:encoder", "timm-map:local-dir:{}/encoder"),
    ],
)
def test_the_same_command_goes_on_with_its_relative_paths(tmp_path, monkeypatch, key, relative, absolute):
    """A run keeps paths that hold wherever the next command is typed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sections").mkdir()
    for name in ("genes.txt", "genes.txt2"):
        (tmp_path / name).write_text("GNAS\n")
    config = Config().override(["data.format=h5ad", "data.root=sections", f"{key}={relative}"])
    kept = config.override([f"data.root={tmp_path / 'sections'}", f"{key}={absolute.format(tmp_path)}"])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(kept.to_yaml())
    tl.check_run(config, "run", resume=True)
    with pytest.raises(RunError, match="another configuration"):
        tl.check_run(config.override([f"{key}={relative}2"]), "run", resume=True)
