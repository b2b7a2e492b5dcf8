#!/usr/bin/env bash
# A run that is killed goes on to the same result: `kill.sh TRIPLAY SITE BY`, in an empty folder that has loop.yaml.
set -euo pipefail
triplay=$1 site=$2 by=$3
run=("$triplay" pipeline run loop.yaml --site "$site" --set "by=$by")
digests() { python3 -c '
import json, sys
lines = map(json.loads, open(sys.argv[1] + "/nodes.jsonl"))
for line in sorted((line["node"], output["name"], output["digest"]) for line in lines for output in line["outputs"]): print(*line)
' "$1"; }
result() { python3 -c 'import json, sys; print(json.load(sys.stdin)["results"])'; }
digests "$("${run[@]}" --cache whole --json 2> whole.log | result)" > whole.digests
killed=0
for nodes in 5 8 9 13; do
    "${run[@]}" --cache killed > killed.log 2>&1 &
    pid=$!
    # The count of recorded nodes, whatever run made them.
    while kill -0 $pid 2> /dev/null && [ "$(cat killed/records/* 2> /dev/null | wc -l)" -lt $nodes ]; do sleep 0.02; done
    kill -9 $pid 2> /dev/null && killed=$((killed + 1))
    wait $pid 2> /dev/null || true
done
sleep 3
left=$(pgrep -fc "triplay_torch $PWD" || true)
digests "$("${run[@]}" --cache killed --json 2> killed.log | result)" > killed.digests
cmp whole.digests killed.digests
echo "$by: killed $killed times, $left processes left, the same $(wc -l < whole.digests) outputs"
[ "$left" = 0 ]
