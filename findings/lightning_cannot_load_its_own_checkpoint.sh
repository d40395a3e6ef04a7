#!/usr/bin/env bash
# Lightning writes a checkpoint with a NumPy number in it that it cannot load again.
#
# Packages: lightning 2.6.6, torch 2.13.0, numpy 2.4.6.
# Guess: what Trainer.save_checkpoint wrote, load_from_checkpoint and
# fit(ckpt_path=...) read.
# What happens: save_hyperparameters keeps the arguments of the module as they are, and
# saving pickles them without a word. Loading allows only tensors and plain Python
# values, and raises UnpicklingError for a mean of NumPy, an array of gene names or a
# Path. It is met after the training is done.
# Why it matters: the mean of a gene or the size of a panel is often a NumPy scalar.
#
# Output seen:
#   lightning 2.6.6 torch 2.13.0 numpy 2.4.6
#   guess: all of these are read again by load_from_checkpoint and by fit(ckpt_path=...)
#   seen:  argument 0.5: load_from_checkpoint read, fit read
#   seen:  argument np.float32(0.5): load_from_checkpoint UnpicklingError, fit UnpicklingError
#   seen:  argument array(['ESR1', 'GATA3'], dtype='<U5'): load_from_checkpoint UnpicklingError, fit UnpicklingError
#   seen:  argument PurePosixPath('panel.txt'): load_from_checkpoint UnpicklingError, fit UnpicklingError
#
# Exit status: 0 while the behaviour stands, otherwise not 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=(lightning==2.6.6 torch==2.13.0 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv venv -q --python python3 "$work/venv"
  uv pip install -q --python "$work/venv/bin/python" "${packages[@]}"
else
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install -q "${packages[@]}"
fi
"$work/venv/bin/python" -W ignore - <<'PY'
import logging
import pathlib
import pickle
import tempfile

import lightning
import numpy as np
import torch

logging.getLogger("lightning").setLevel(logging.ERROR)
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Model(lightning.LightningModule):
    def __init__(self, value):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, _):
        return self.layer(batch[0]).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(4, 1)), batch_size=4)


def trainer(epochs):
    return lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def outcome(value):
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "model.ckpt"
        first = trainer(1)
        first.fit(Model(value), batches)
        first.save_checkpoint(file)
        found = []
        for again in (
            lambda: Model.load_from_checkpoint(file),
            lambda: trainer(2).fit(Model(value), batches, ckpt_path=file),
        ):
            try:
                again()
                found.append("read")
            except pickle.UnpicklingError as error:
                found.append(type(error).__name__)
        return found


print("lightning", lightning.__version__, "torch", torch.__version__.split("+")[0], "numpy", np.__version__)
print("guess: all of these are read again by load_from_checkpoint and by fit(ckpt_path=...)")
for value in (0.5, np.float32(0.5), np.array(["ESR1", "GATA3"]), pathlib.PurePosixPath("panel.txt")):
    found = outcome(value)
    print(f"seen:  argument {value!r}: load_from_checkpoint {found[0]}, fit {found[1]}")
    assert found == (["read"] * 2 if isinstance(value, float) and not isinstance(value, np.generic) else ["UnpicklingError"] * 2)
PY
