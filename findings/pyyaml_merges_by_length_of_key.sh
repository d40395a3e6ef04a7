#!/usr/bin/env bash
# Which of two merged mappings counts depends on how long a key is.
#
# Packages: pyyaml 6.0.4, and 6.0.2 for comparison.
# Guess: of the mappings that "<<: [*a, *b]" merges, the first that has a key gives its
# value (the merge key's specification, yaml.org/type/merge.html), and what a mapping says
# itself counts before what it merges. 6.0.2 does so.
# What happens: 6.0.4 tells keys apart by the identity of their text in memory. Python
# keeps texts of one character once, so "k" is as specified in a list of mappings, and
# "width" takes the last mapping's value. The other way round, a mapping that replaces "k"
# of one that it merges has its own value, and a third that merges it gets the first's.
# Why it matters: settings of an experiment are merged from several others. Which one
# trains depends on the name of the setting, and on the release; nothing is said.
#
# Output seen:
#   pyyaml 6.0.2 list, key k: 1
#   pyyaml 6.0.2 list, key width: 1
#   pyyaml 6.0.2 chain, key k: 2
#   pyyaml 6.0.2 chain, key width: 2
#   pyyaml 6.0.4 list, key k: 1
#   pyyaml 6.0.4 list, key width: 2
#   pyyaml 6.0.4 chain, key k: 1
#   pyyaml 6.0.4 chain, key width: 2
#
# Exit status: 0 while the behaviour stands, otherwise not 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/look.py" <<'PY'
import yaml

for key in ("k", "width"):
    of_list = yaml.safe_load(f"a: &a {{{key}: 1}}\nb: &b {{{key}: 2}}\nmerged: {{<<: [*a, *b]}}")
    print(f"pyyaml {yaml.__version__} list, key {key}: {of_list['merged'][key]}")
for key in ("k", "width"):
    of_chain = yaml.safe_load(f"a: &a {{{key}: 1}}\nb: &b {{<<: *a, {key}: 2}}\nmerged: {{<<: *b}}")
    assert of_chain["b"] == {key: 2}
    print(f"pyyaml {yaml.__version__} chain, key {key}: {of_chain['merged'][key]}")
PY
for release in 6.0.2 6.0.4; do
  if command -v uv >/dev/null; then
    uv venv -q --python python3 "$work/$release"
    uv pip install -q --python "$work/$release/bin/python" "pyyaml==$release"
  else
    python3 -m venv "$work/$release"
    "$work/$release/bin/pip" install -q "pyyaml==$release"
  fi
  "$work/$release/bin/python" "$work/look.py"
done | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
pyyaml 6.0.2 list, key k: 1
pyyaml 6.0.2 list, key width: 1
pyyaml 6.0.2 chain, key k: 2
pyyaml 6.0.2 chain, key width: 2
pyyaml 6.0.4 list, key k: 1
pyyaml 6.0.4 list, key width: 2
pyyaml 6.0.4 chain, key k: 1
pyyaml 6.0.4 chain, key width: 2
SEEN
