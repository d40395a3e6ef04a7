#!/usr/bin/env bash
# A file that safetensors writes can be read by its owner alone; and for others it is "not there".
#
# Packages: safetensors 0.8.0, numpy 2.4.6.
# Guess: save_file gives a file the mode of any new file (0666 without the umask), as open() does, and load_file says
# that a file may not be read.
# What happens: save_file writes to a temporary file of mode 0600 and renames it, whatever the umask. load_file by
# another user raises FileNotFoundError, "No such file or directory", for the file that is there.
# Why it matters: weights in a shared folder cannot be loaded by anyone but who trained them, and the error sends them
# to look for a missing file.
#
# Output seen:
#   safetensors 0.8.0
#   guess: mode 0644 with umask 022, and another user is told of the permission
#   seen:  mode 0600, beside open()'s 0644
#   seen:  another user: FileNotFoundError: No such file or directory; of open(): PermissionError
#
# The second part needs root, which can become another user; it is left out otherwise.
# Exit status: 0 while the behaviour stands, otherwise not 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=(safetensors==0.8.0 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv venv -q --python python3 "$work/venv"
  uv pip install -q --python "$work/venv/bin/python" "${packages[@]}"
else
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install -q "${packages[@]}"
fi
chmod 755 "$work"
"$work/venv/bin/python" - "$work" <<'PY'
import os
import sys
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

os.umask(0o022)
plain, weights = Path(sys.argv[1], "plain"), Path(sys.argv[1], "weights.safetensors")
plain.touch()
save_file({"a": np.zeros(2)}, weights)
modes = {path.name: path.stat().st_mode & 0o777 for path in (plain, weights)}
print("safetensors", safetensors.__version__)
print("guess: mode 0644 with umask 022, and another user is told of the permission")
print(f"seen:  mode {modes['weights.safetensors']:04o}, beside open()'s {modes['plain']:04o}")
assert modes == {"plain": 0o644, "weights.safetensors": 0o600}
if os.getuid() == 0:
    said = {}
    os.seteuid(65534)
    for name, read in (("load_file", load_file), ("open", open)):
        try:
            read(weights)
        except Exception as error:
            said[name] = error
    os.seteuid(0)
    text = str(said["load_file"]).partition(":")[0]
    print(f"seen:  another user: {type(said['load_file']).__name__}: {text}; of open(): {type(said['open']).__name__}")
    assert isinstance(said["load_file"], FileNotFoundError)
    assert isinstance(said["open"], PermissionError)
PY
