"""Checkpoints are whole or not there, and reading one runs no code."""

from __future__ import annotations

import errno
import pickle
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from nh2st_graph import RunError
from nh2st_graph.train._checkpoints import ORIGIN, Kept, WholeCheckpoints, averaged_weights, read_kept, set_aside

CONTENT: dict[str, Any] = {
    "callbacks": {
        "Averaging": {"best": {"model.w": torch.ones(2)}, "lowest": 0.5},
        "EpochLog": {"rows": [{"stage": "all", "epoch": 1, "val_loss": "0.5"}]},
    },
    "epoch": 1,
    "global_step": 3,
    "loops": {},
    "optimizer_states": [],
    "state_dict": {"model.w": torch.zeros(2)},
    ORIGIN: '{"torch": "2.4.0"}',
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "fold1" / "last.ckpt"
    WholeCheckpoints().save_checkpoint(CONTENT, path)
    return path


def test_what_was_written_is_read(checkpoint):
    assert read_kept(checkpoint) == Kept({"torch": "2.4.0"}, [{"stage": "all", "epoch": 1, "val_loss": "0.5"}])
    assert averaged_weights(checkpoint)["w"].tolist() == [0, 0]
    assert averaged_weights(checkpoint, best=True)["w"].tolist() == [1, 1]


def test_no_other_disk_is_needed(tmp_path, monkeypatch):
    """Lightning writes into the temporary folder, and moves: on another disk that is a copy."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "not there"))
    WholeCheckpoints().save_checkpoint(CONTENT, tmp_path / "last.ckpt")
    assert read_kept(tmp_path / "last.ckpt").rows


def test_a_full_disk_leaves_the_checkpoint_before(checkpoint, monkeypatch):
    write = Path.write_bytes

    def half(path: Path, data: Any) -> int:
        write(path, bytes(data)[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(RunError, match=r"last\.ckpt cannot be written: the disk is full; make room"):
        WholeCheckpoints().save_checkpoint({**CONTENT, "epoch": 2}, checkpoint)
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 1
    assert [path.name for path in checkpoint.parent.iterdir()] == ["last.ckpt"]


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "damage",
    [
        cut_off,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("no checkpoint"),
        lambda path: path.write_bytes(pickle.dumps(Touch(path.with_name("ran")))),
        lambda path: torch.save({**CONTENT, "epoch": Touch(path.with_name("ran"))}, path),
        lambda path: torch.save([1], path),
        lambda path: torch.save({"state_dict": {}}, path),
        lambda path: torch.save({**CONTENT, "callbacks": {}}, path),
        lambda path: torch.save({**CONTENT, ORIGIN: "{"}, path),
    ],
)
def test_what_is_damaged_is_known_and_set_aside(checkpoint, damage, caplog):
    damage(checkpoint)
    with pytest.raises(ValueError, match=r"\w") as caught:
        read_kept(checkpoint)
    set_aside(checkpoint, str(caught.value))
    assert [path.name for path in checkpoint.parent.iterdir()] == ["last.ckpt.unreadable"]
    assert f"checkpoint {checkpoint} cannot be read" in caplog.text


def test_a_checkpoint_of_the_first_format_is_read():
    kept = read_kept(Path(__file__).resolve().parents[1] / "golden" / "format_1" / "last.ckpt")
    assert set(kept.origin["train"]) == {"S1", "S2"}
    assert kept.rows


def test_a_checkpoint_of_an_earlier_version_says_nothing_of_its_data(checkpoint):
    earlier = {name: part for name, part in CONTENT.items() if name != ORIGIN}
    torch.save({**earlier, "callbacks": {"Averaging": CONTENT["callbacks"]["Averaging"]}}, checkpoint)
    assert read_kept(checkpoint) == Kept()
