"""What a server answers to the requests that triplay's client makes, and to wrong ones: the facts the client is written against.

Usage: server_shapes.py URL MODEL vllm|llama [ADAPTER_DIR OTHER_ADAPTER_DIR]     (Python only; long answers are cut)
"""
import json
import sys
import urllib.error
import urllib.request

url, model, kind, *adapters = sys.argv[1:]


def ask(path, body=None, show=700):
    request = urllib.request.Request(url + path, json.dumps(body).encode() if body is not None else None,
                                     {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=300) as response:
            status, text = response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read().decode()
    except OSError as error:
        status, text = "broken", str(error)
    print(f"### {'GET' if body is None else 'POST'} {path}\n" + (f"{json.dumps(body)[:300]}\n" if body is not None else "")
          + f"-> {status} {text[:show]}{'…' if len(text) > show else ''}\n", flush=True)
    try:
        return json.loads(text)
    except ValueError:
        return {}


messages = [{"role": "user", "content": "Name a color."}]
ids = [504, 3575, 282, 4649, 314]
fixed = {"model": model, "temperature": 0, "top_p": 1, "top_k": -1 if kind == "vllm" else 0, "min_p": 0, "seed": 7}
for path in ("/health", "/version", "/v1/models", "/props"):
    ask(path)
ask("/tokenize", {"model": model, "messages": messages, "add_generation_prompt": True})
ask("/tokenize", {"model": model, "content": "The color", "prompt": "The color", "add_special": False})
ask("/apply-template", {"messages": messages})
ask("/v1/completions", fixed | {"prompt": ids, "max_tokens": 3, "logprobs": 1, "return_token_ids": True})
ask("/v1/completions", fixed | {"prompt": ids, "max_tokens": 1, "logprobs": 1, "echo": True})
ask("/v1/chat/completions", fixed | {"messages": messages, "max_tokens": 3, "logprobs": True, "top_logprobs": 1, "return_token_ids": True})
if kind == "vllm":
    ask("/v1/completions", fixed | {"prompt": ids, "max_tokens": 0, "logprobs": 1, "echo": True})
    ask("/v1/completions", fixed | {"prompt": ids, "max_tokens": 1, "prompt_logprobs": 0})
    ask("/v1/completions", fixed | {"prompt": ids, "max_tokens": 1, "logprobs": 1, "logprob_token_ids": [504, 3575]})
    for temperature in (0, 0.5):
        ask("/v1/completions", fixed | {"prompt": ids, "max_tokens": 1, "logprobs": 1, "temperature": temperature})
    ask("/v1/chat/completions", fixed | {"messages": messages, "max_tokens": 8, "structured_outputs": {"choice": ["green", "blue"]}})
    ask("/v1/completions", fixed | {"prompt": ids, "max_tokens": 3, "n": 2})
else:
    ask("/completion", {"prompt": ids, "n_predict": 3, "n_probs": 2, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 7,
                        "cache_prompt": False, "return_tokens": True, "post_sampling_probs": False})
    ask("/v1/chat/completions", fixed | {"messages": messages, "max_tokens": 8, "grammar": 'root ::= "green" | "blue"'})
print("## wrong requests\n")
ask("/v1/completions", fixed | {"model": "dragon", "prompt": "Moonmilk", "max_tokens": 1})
ask("/v1/completions", fixed | {"prompt": "Moonmilk " * 9000, "max_tokens": 1})
ask("/v1/completions", fixed | {"prompt": "Moonmilk", "max_tokens": 1, "no_such_field": 1})
ask("/v1/completions", fixed | {"prompt": "Moonmilk", "max_tokens": 1, "temperature": -1})
if adapters:
    print("## adapters\n")
    first, other = adapters
    ask("/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "/nowhere"})
    ask("/v1/load_lora_adapter", {"lora_name": "red", "lora_path": first})
    ask("/v1/load_lora_adapter", {"lora_name": "red", "lora_path": first})
    ask("/v1/load_lora_adapter", {"lora_name": "red", "lora_path": other})
    ask("/v1/models", show=1600)
    for name in (model, "red"):
        ask("/v1/completions", fixed | {"model": name, "prompt": ids, "max_tokens": 4, "logprobs": 0, "return_token_ids": True})
    ask("/v1/unload_lora_adapter", {"lora_name": "red"})
    ask("/v1/unload_lora_adapter", {"lora_name": "red"})
