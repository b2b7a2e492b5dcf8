#!/bin/bash
# Tokens a second and the time to the first token, `triplay serve` beside llama.cpp's server: the same weights in f32, two threads each,
# 1, 8 and 64 requests at once, one server at a time.
# Usage: speed.sh TRIPLAY [PORT]     (after environments.sh; needs Python with aiohttp: the one of venv-eval)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/servers.sh"
triplay=$1 port=${2:-8103}
trap 'down triplay llama' EXIT
echo "$(date -u +%F), $(nproc --all) cores, load before $(cut -d' ' -f1 /proc/loadavg), $("$triplay" --version), xllamacpp $("$REAL/venv-llama/bin/python" -c 'from importlib.metadata import version; print(version("xllamacpp"))')"
triplay_up "$triplay" "$port"
"$REAL/venv-eval/bin/python" "$here/load.py" "http://127.0.0.1:$port" "triplay serve"
down triplay
llama_up "$port" 2 64 256
"$REAL/venv-eval/bin/python" "$here/load.py" "http://127.0.0.1:$port" "llama.cpp"
