#!/bin/bash
# promptfoo evaluates a served model, by chat and by completion; every assertion must hold.
# Usage: promptfoo_asks.sh URL MODEL     (with promptfoo in $REAL/npm)
set -euo pipefail
REAL=${REAL:-$HOME/.cache/triplay-real}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export URL=$1 MODEL=$2 PROMPTFOO_DISABLE_TELEMETRY=1 PROMPTFOO_DISABLE_UPDATE=1 PROMPTFOO_DISABLE_REMOTE_GENERATION=1 PROMPTFOO_CONFIG_DIR=$work
"$REAL/npm/node_modules/.bin/promptfoo" eval --config "$here/promptfooconfig.yaml" --no-cache --no-write --no-progress-bar --no-table \
    --output "$work/results.json" >"$work/log" 2>&1 || true    # what failed is shown below
[ -s "$work/results.json" ] || { tail -40 "$work/log"; exit 1; }
python3 - "$work/results.json" <<'P'
import json, sys
results = json.load(open(sys.argv[1]))["results"]
for row in results["results"]:
    print(f"{row['provider']['id']}: {'passed' if row['success'] else 'failed'}, {row['response'].get('output')!r}")
stats = results["stats"]
assert stats["successes"] == 4 and stats["failures"] == stats["errors"] == 0, stats
P
