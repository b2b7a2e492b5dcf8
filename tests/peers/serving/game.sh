#!/bin/bash
# The game of game.yaml with real servers, twice: its policy behind vLLM, its defender and evaluator behind vLLM, then behind llama.cpp's server.
# Usage: game.sh TRIPLAY     (after environments.sh)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/servers.sh"
triplay=$1
work=$(mktemp -d)
trap 'down vllm llama; rm -rf "$work"' EXIT
cp "$here"/game.yaml "$here"/*.jinja "$work"
cd "$work"

echo "$(date -u +%F), $(nproc --all) cores, $("$triplay" --version)"
vllm_up 8101
llama_up 8102 1 4 1024
for others in vllm llama.cpp; do
    case $others in vllm) port=8101 ;; *) port=8102 ;; esac
    cat >triplay.yaml <<Y
endpoints:
  policy: { url: "http://127.0.0.1:8101", kind: vllm, requests: 4 }
  others: { url: "http://127.0.0.1:$port", kind: $others, requests: 4 }
Y
    echo "== defender and evaluator behind $others"
    "$triplay" pipeline run game.yaml --set base="$BASE" --set others="$others" 2>&1 | grep -v '^  '
    "$triplay" data show latest:play[2]/update.metrics --columns metric,value,count | grep -w 'metric\|served_gap\|reward'
    "$triplay" data show 'latest:play[2]/verdicts' --columns class,text --rows 3
    curl -s http://127.0.0.1:8101/v1/models | grep -o '"id":"[^"]*","object":"model","created"' | grep -o '"id":"[^"]*"' |
        tee models | cat
    [ "$(cat models)" = '"id":"smollm2"' ] || { echo "an adapter was not unloaded" >&2; exit 1; }
    "$triplay" pipeline run game.yaml --set base="$BASE" --set others="$others" 2>&1 | tail -1 | tee last
    grep -q 'ran 0' last || { echo "the second run must have nothing to do" >&2; exit 1; }
done
