#!/bin/bash
# Five evaluators ask `triplay serve`: lm-evaluation-harness, garak, Inspect, PyRIT and promptfoo. Each script fails if an answer is wrong.
# Usage: evaluators.sh TRIPLAY [PORT]     (after environments.sh)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/servers.sh"
triplay=$1 port=${2:-8100} url=http://127.0.0.1:${2:-8100}
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_DATASETS_OFFLINE=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
trap 'down triplay' EXIT

version() { "$REAL/venv-$1/bin/python" -c "from importlib.metadata import version; print('$2', version('$2'))"; }

echo "$(date -u +%F), $(nproc --all) cores, $("$triplay" --version), SmolLM2-135M-Instruct in f32"
triplay_up "$triplay" "$port"
echo "== $(version eval lm_eval), $(version eval transformers)"
"$REAL/venv-eval/bin/python" "$here/lm_eval_agrees.py" "$url" smollm2 "$BASE"
echo "== $(version garak garak)"
"$REAL/venv-garak/bin/python" "$here/garak_asks.py" "$url" smollm2
echo "== $(version inspect inspect_ai)"
"$REAL/venv-inspect/bin/python" "$here/inspect_asks.py" "$url" smollm2
echo "== $(version pyrit pyrit)"
"$REAL/venv-pyrit/bin/python" "$here/pyrit_asks.py" "$url" smollm2 2>/dev/null | grep -v '^\[pyrit\|^No default\|^The response was'
echo "== promptfoo $(node -p "require('$REAL/npm/node_modules/promptfoo/package.json').version")"
"$here/promptfoo_asks.sh" "$url" smollm2
echo "all answered"
