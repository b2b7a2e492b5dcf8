#!/usr/bin/env bash
# The PyTorch worker, tested with PyTorch: `torch.sh TRIPLAY PYTHON SMOLLM2`, see README.md. Takes about ten minutes on two cores.
set -euo pipefail
triplay=$(realpath "$1") python=$(realpath -s "$2")
export SMOLLM2
SMOLLM2=$(realpath "$3")
here=$(realpath "$(dirname "$0")")
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} PYTHONPATH=$here/../../../trainers/torch PYTHONWARNINGS=ignore
unset TRIPLAY_CACHE TRIPLAY_SITE
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "$(date -u +%F), $(nproc) cores of $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1)"
"$python" -c 'import sys, torch, transformers, peft, accelerate
print("Python", sys.version.split()[0], "torch", torch.__version__, "transformers", transformers.__version__, "peft", peft.__version__, "accelerate", accelerate.__version__)'

echo "== the numbers of TRL and transformers"
"$python" "$here/fixtures.py" 2> "$work/log" || { cat "$work/log"; exit 1; }
for processes in 1 2; do
    echo "== the quickstart's step, here and in PyTorch with processes: $processes"
    mkdir "$work/$processes" && cd "$work/$processes"
    echo "torch: { python: $python, device: cpu, processes: $processes }" > triplay.yaml
    cp "$here/agree.yaml" .
    OMP_NUM_THREADS=$((OMP_NUM_THREADS / processes)) "$triplay" pipeline run agree.yaml > log 2>&1 || { cat log; exit 1; }
    "$python" "$here/agree.py" . 1e-4
done
for by in here torch; do
    echo "== killed, $by"
    mkdir "$work/kill-$by" && cd "$work/kill-$by"
    cp "$here/loop.yaml" .
    bash "$here/kill.sh" "$triplay" "$work/1/triplay.yaml" $by
done
echo "== the same step written plainly"
"$python" "$here/speed.py" "${GROUPS_OF_4:-4}" "${ROUNDS:-2}" 2> "$work/log" || { cat "$work/log"; exit 1; }
