#!/usr/bin/env bash
# Time the README's first command in a fresh clone with empty caches: what it installs, and then the demo's table.
#   benchmarks/first_command.sh [CHECKOUT...]     this checkout if none is given; each takes minutes and 12 GB of disk
set -euo pipefail
[ $# -gt 0 ] || set -- "$(dirname "$0")/.."
unset PYTHONPATH VIRTUAL_ENV PYTHONDONTWRITEBYTECODE
echo "| checkout | packages | set-up, s | demo, s | together, s | load before |"
echo "| --- | --- | --- | --- | --- | --- |"
for checkout in "$@"; do
  place="$(mktemp -d)"
  trap 'rm -rf "$place"' EXIT
  git clone -q "$checkout" "$place/clone"
  cd "$place/clone"
  load="$(cut -d' ' -f1 /proc/loadavg)"
  export UV_CACHE_DIR="$place/cache"
  start="$(date +%s)"
  python3 -m uv run -q nh2st-graph --version >/dev/null
  ready="$(date +%s)"
  python3 -m uv run -q nh2st-graph demo >"$place/said" 2>&1
  end="$(date +%s)"
  packages="$(python3 -m uv pip list -q -p .venv/bin/python --format json | grep -o '"name"' | wc -l)"
  echo "| $(git log -1 --format=%h) | $packages | $((ready - start)) | $((end - ready)) | $((end - start)) | $load |"
  cd - >/dev/null
  rm -rf "$place"
done
