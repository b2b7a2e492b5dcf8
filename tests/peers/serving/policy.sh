#!/bin/bash
# An adapter that PEFT made is a policy behind vLLM: two GRPO steps over what the server samples; texts of the frozen one stay the same.
# Usage: policy.sh TRIPLAY     (after environments.sh)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/servers.sh"
triplay=$(realpath "$1")
work=$(mktemp -d)
trap 'down vllm; rm -rf "$work"' EXIT
[ -d "$REAL/policy" ] || "$REAL/venv-hf/bin/python" "$here/adapter.py" "$BASE" "$REAL/policy" 2>/dev/null
cp "$here"/policy.yaml "$here/attack.jinja" "$work"
cd "$work"

echo "$(date -u +%F), $(nproc --all) cores, $("$triplay" --version)"
vllm_up 8101
echo 'endpoints: { lab: { url: "http://127.0.0.1:8101", requests: 4 } }' >triplay.yaml
"$triplay" pipeline run policy.yaml --set attacker="$REAL/policy" 2>&1 | grep -v '^  '
for step in 1 2; do
    "$triplay" data show "latest:play[$step]/update.metrics" --json >>metrics
done
for node in before after later; do
    "$triplay" data show "latest:$node" --json --columns text >"$node"
done
curl -s http://127.0.0.1:8101/v1/models >models
python3 - <<'P'
import json
rows = [json.loads(line) for line in open("metrics")]
value = lambda metric: [row["value"] for row in rows if row["metric"] == metric]
print("gap between vLLM's log-probabilities and the trainer's:", ", ".join(f"{gap:.1e}" for gap in value("served_gap")),
      "on average,", f"{max(value('served_gap_max')):.1e} at most")
print("reward of the two steps:", value("reward"))
before, after, later = ([json.loads(line)["text"] for line in open(name)] for name in ("before", "after", "later"))
print("before:", before, "\nafter: ", after, "\nlater: ", later)
names = [model["id"] for model in json.load(open("models"))["data"]]
assert 0 < max(value("served_gap")) < 1e-3, "the gap is not that of two implementations in f32"
assert before == later, "the frozen sampler changed"
assert before != after, "training changed nothing"
assert names == ["smollm2"], f"adapters were not unloaded: {names}"
P
