#!/usr/bin/env bash
# A look at the validation set changes the training that follows.
#
# Packages: torch 2.13.0.
# Guess: a loader without shuffle and without workers uses no random numbers. A run with
# validation trains on the same batches as one without.
# What happens: each new pass over a DataLoader draws a seed for workers from torch's
# global generator, also where there are none. The next shuffle, dropout or
# initialisation then gets other numbers. The first epoch is the same, all later ones
# differ. A generator given to the loader keeps it apart.
# Why it matters: two runs with one seed are compared that validate at other times, or
# one of them scores an extra section, and the difference looks like a result.
#
# Output seen:
#   torch 2.13.0
#   guess: the second epoch has the same order with and without validation
#   seen:  no validation: epoch 1 [6, 7, 1, 4, 2, 0, 9, 8, 3, 5], epoch 2 [2, 4, 7, 0, 8, 9, 5, 3, 6, 1]
#   seen:  validation: epoch 1 [6, 7, 1, 4, 2, 0, 9, 8, 3, 5], epoch 2 [2, 4, 9, 8, 7, 5, 6, 1, 0, 3]
#   seen:  validation with a generator: epoch 1 [6, 7, 1, 4, 2, 0, 9, 8, 3, 5], epoch 2 [2, 4, 7, 0, 8, 9, 5, 3, 6, 1]
#
# Exit status: 0 while the behaviour stands, otherwise not 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=(torch==2.13.0 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv venv -q --python python3 "$work/venv"
  uv pip install -q --python "$work/venv/bin/python" "${packages[@]}"
else
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install -q "${packages[@]}"
fi
"$work/venv/bin/python" -W ignore - <<'PY'
import torch
from torch.utils.data import DataLoader, TensorDataset

spots = TensorDataset(torch.arange(10))


def epochs(validate, generator=None):
    torch.manual_seed(0)
    training = DataLoader(spots, batch_size=5, shuffle=True)
    validation = DataLoader(spots, batch_size=5, generator=generator)
    orders = []
    for _ in range(2):
        orders.append([int(spot) for (batch,) in training for spot in batch])
        if validate:
            list(validation)
    return orders


print("torch", torch.__version__.split("+")[0])
print("guess: the second epoch has the same order with and without validation")
without, with_it, apart = epochs(False), epochs(True), epochs(True, torch.Generator())
for name, orders in (("no validation", without), ("validation", with_it), ("validation with a generator", apart)):
    print(f"seen:  {name}: epoch 1 {orders[0]}, epoch 2 {orders[1]}")
assert without[0] == with_it[0] and without[1] != with_it[1]
assert without == apart
PY
