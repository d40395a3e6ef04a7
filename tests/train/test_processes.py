"""Training by two processes is training by one on what both see."""

from __future__ import annotations

from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from anndata import AnnData
from safetensors.torch import load_file

from nh2st_graph import ConfigError, read, tl
from nh2st_graph.config import Config, TrainConfig
from nh2st_graph.train import Processes, SpotBatches, start_processes

from . import together

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(
    tiny_config: Config,
    tiny_run: tl.Run,
    tiny_sections: dict[str, AnnData],
    tmp_path_factory: pytest.TempPathFactory,
    forkserver: ForkServerContext,
) -> Path:
    """What two processes left: Lightning starts the second by running the script again."""
    out = tmp_path_factory.mktemp("together")
    for name, section in tiny_sections.items():
        read.write_h5ad(section, out / "sections" / f"{name}.h5ad")
    # Genes that are chosen would have each process compile scanpy's functions.
    (out / "panel.txt").write_text("\n".join(tiny_run.model.genes))
    changes = [
        "train.devices=2",
        "train.folds=2",
        "train.batch_spots=16",
        "train.checkpoint_seconds=0",
        "data.format=h5ad",
        f"data.root={out / 'sections'}",
        f"data.panel={out / 'panel.txt'}",
        "evaluate.baselines=false",
        "evaluate.figures=false",
    ]
    (out / "config.yaml").write_text(tiny_config.override(changes).to_yaml())
    process = forkserver.Process(target=together.run_as_script, args=(out, ROOT))
    process.start()
    process.join(300)
    assert process.exitcode == 0
    return out


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


@pytest.mark.slow
class TestTwo:
    def test_steps_are_those_of_one_process_on_the_joined_batch(self, found, tmp_path):
        alone = together.steps(tmp_path, "batch", together.JoinedData)
        log = pd.DataFrame(alone["rows"]).astype(float, errors="ignore")
        for each in (process["batch"] for process in found):
            assert each["steps"] == alone["steps"] == 8
            for what in ("weights", "best"):
                torch.testing.assert_close(each[what], alone[what], rtol=1e-9, atol=1e-9)
            rows = pd.DataFrame(each["rows"]).astype(float, errors="ignore")
            pd.testing.assert_frame_equal(rows, log, rtol=1e-5, check_like=True)

    @pytest.mark.parametrize("how", ["section", "pieces"])
    def test_processes_agree_where_each_has_candidates_of_its_own(self, how, found):
        first, second = (process[how] for process in found)
        torch.testing.assert_close(first["weights"], second["weights"], rtol=0, atol=0)
        assert first["rows"] == second["rows"]

    def test_a_row_gets_the_gradients_of_all_processes(self, found):
        generator = torch.Generator().manual_seed(1)
        rows = torch.randn(7, 3, generator=generator, dtype=torch.float64, requires_grad=True)
        (3 * together.loss_of(rows)).backward()
        torch.testing.assert_close(torch.cat([each["gradient"] for each in found]), rows.grad)

    def test_libraries_that_no_training_needs_are_not_loaded(self, found):
        assert [each["loaded"] for each in found] == [[], []]

    def test_one_of_them_writes_the_run(self, folder):
        run = folder / "run"
        model = tl.load(run)
        assert model.config.train.devices == 2
        log = pd.read_csv(run / "log.csv")
        assert not log.duplicated(["stage", "epoch"]).any()
        assert {path.name for path in (run / "predictions").iterdir()} == {"S3.h5ad"}
        assert not list(run.rglob("*.part"))

    def test_a_run_that_was_resumed_is_the_run_that_was_not(self, folder):
        run, stopped = folder / "run", folder / "stopped"
        assert (run / "log.csv").read_text() == (stopped / "log.csv").read_text()
        torch.testing.assert_close(
            load_file(run / "model.safetensors"), load_file(stopped / "model.safetensors"), rtol=0, atol=0
        )
        assert (run / "metrics_per_gene.csv").read_text() == (stopped / "metrics_per_gene.csv").read_text()


@pytest.mark.parametrize("ranks", [2, 3, 9])
def test_processes_share_the_batches_of_an_epoch(ranks):
    sections = together.sections()
    everything = [batch.y[batch.seeds] for batch in SpotBatches(sections, together.BATCH_SPOTS, 1, seed=4, epoch=5)]
    shares = [
        SpotBatches(sections, together.BATCH_SPOTS, 1, seed=4, epoch=5, rank=rank, ranks=ranks) for rank in range(ranks)
    ]
    seen = [[batch.y[batch.seeds] for batch in share] for share in shares]
    assert {len(share) for share in shares} == {len(batches) for batches in seen} == {-(-7 // ranks)}
    in_turn = [batches[step] for step in range(len(shares[0])) for batches in seen]
    for i, batch in enumerate(in_turn):
        assert torch.equal(batch, everything[i % 7])


def test_one_process_is_the_default_and_needs_nothing():
    alone = start_processes(TrainConfig())
    assert alone == Processes()
    assert alone.main
    assert alone.share("value") == "value"
    assert alone.trainer_options()["devices"] == 1
    assert not torch.distributed.is_initialized()


def test_numbers_of_processes_that_do_not_fit_are_refused(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for settings in (TrainConfig(), TrainConfig(devices="auto"), TrainConfig(devices=4, nodes=2)):
        with pytest.raises(ConfigError, match=r"devices=.*nodes=.* 4 were started"):
            start_processes(settings)


@pytest.mark.parametrize("given", [0, -1, "many", True, 1.5])
def test_a_number_of_processes_is_a_number(given):
    with pytest.raises(ConfigError, match=r"train\.devices"):
        Config().override([f"train.devices={given}"])


def test_the_first_process_is_told_by_what_started_it(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    assert tl.is_first()
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert not tl.is_first()
    assert not tl.is_first(TrainConfig(devices=2))
    assert tl.is_first(TrainConfig()), "runs of one process each, side by side"
