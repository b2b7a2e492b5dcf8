# Functions that start and end the real servers; for `source`. $LOGS holds their logs and process ids.
REAL=${REAL:-$HOME/.cache/triplay-real}
LOGS=${LOGS:-$(mktemp -d)}
BASE=$REAL/smollm2
GGUF=$REAL/gguf-f32/SmolLM2-135M-Instruct.f32.gguf

# Waits until NAME, on PORT, is healthy.
await() {
    for _ in $(seq 600); do
        curl -sf -m 2 "http://127.0.0.1:$2/health" >/dev/null && return
        kill -0 "$(cat "$LOGS/$1.pid")" 2>/dev/null || break
        sleep 0.5
    done
    echo "$1 did not come up:" >&2
    tail -5 "$LOGS/$1.log" >&2
    return 1
}

# triplay_up TRIPLAY PORT
triplay_up() {
    "$1" serve "smollm2=$BASE" --port "$2" >"$LOGS/triplay.log" 2>&1 </dev/null &
    echo $! >"$LOGS/triplay.pid"
    await triplay "$2"
}

# llama_up PORT THREADS SLOTS CONTEXT: llama.cpp's server
llama_up() {
    "$REAL/venv-llama/bin/python" "$(dirname "${BASH_SOURCE[0]}")/llama_server.py" "$GGUF" "$@" >"$LOGS/llama.log" 2>&1 </dev/null &
    echo $! >"$LOGS/llama.pid"
    await llama "$1"
}

# vllm_up PORT: vLLM on the CPU, with adapters. One row at a time: 0.32 on the CPU with adapters ends with an error where the
# log-probabilities of two prompts are computed in one batch.
vllm_up() {
    HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 VLLM_TARGET_DEVICE=cpu VLLM_CPU_KVCACHE_SPACE=1 \
        CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} VLLM_CPU_OMP_THREADS_BIND=nobind VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 \
        setsid "$REAL/venv-vllm/bin/vllm" serve "$BASE" --host 127.0.0.1 --port "$1" --served-model-name smollm2 --dtype float32 \
        --max-model-len 1024 --max-num-seqs 1 --enforce-eager --enable-lora --max-loras 2 --max-lora-rank 16 --max-logprobs 20 \
        >"$LOGS/vllm.log" 2>&1 </dev/null &
    echo $! >"$LOGS/vllm.pid"
    await vllm "$1"
}

# Ends what was started: NAME...
down() {
    for name; do
        [ -s "$LOGS/$name.pid" ] || continue
        pid=$(cat "$LOGS/$name.pid")
        # vLLM leads a process group of its own.
        if [ "$name" = vllm ]; then kill -- "-$pid" 2>/dev/null || true; else kill "$pid" 2>/dev/null || true; fi
        wait "$pid" 2>/dev/null || true
        rm -f "$LOGS/$name.pid"
    done
}
