"""lm-evaluation-harness scores a served model as it scores the same checkpoint in transformers.

Usage: lm_eval_agrees.py URL MODEL FOLDER     (URL without /v1; with the Python that has lm-eval)

Two tasks over tasks/potions.jsonl, one scored by log-probabilities and one by greedy texts, run by `lm_eval` twice: `local-completions`
against URL, and `hf` on FOLDER in f32. Scores must be equal, log-likelihoods within 1e-3, texts the same.
"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

TASKS = Path(__file__).parent / "tasks"
TOLERANCE = 1e-3
url, model, folder = sys.argv[1:]


def evaluate(name, arguments, out):
    command = [Path(sys.executable).parent / "lm_eval", "run", "--model", name, "--model_args", arguments, "--include_path", TASKS,
               "--tasks", "potions_choice,potions_write", "--device", "cpu", "--output_path", out, "--log_samples"]
    done = subprocess.run(command, cwd=TASKS, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"lm_eval --model {name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    results = json.loads(next(Path(out).rglob("results_*.json")).read_text())["results"]
    scores = {f"{task} {metric.split(',')[0]}": value for task, row in results.items() for metric, value in row.items()
              if metric.split(",")[0] in ("acc", "acc_norm", "exact_match")}
    samples = {}
    for task in ("potions_choice", "potions_write"):
        lines = next(Path(out).rglob(f"samples_{task}_*.jsonl")).read_text().splitlines()
        samples[task] = [row["filtered_resps"] for row in sorted(map(json.loads, lines), key=lambda row: row["doc_id"])]
    return scores, samples


with tempfile.TemporaryDirectory() as here:
    served = evaluate("local-completions", f"model={model},base_url={url}/v1/completions,num_concurrent=4,tokenizer_backend=huggingface,"
                      f"tokenizer={folder},max_length=2048", f"{here}/served")
    loaded = evaluate("hf", f"pretrained={folder},dtype=float32,max_length=2048", f"{here}/hf")
for metric, value in loaded[0].items():
    print(f"{metric}: served {served[0][metric]:.4f}, transformers {value:.4f}")
assert served[0] == loaded[0], "scores differ"

pairs = [(mine, theirs) for mine_row, their_row in zip(served[1]["potions_choice"], loaded[1]["potions_choice"], strict=True)
         for mine, theirs in zip(mine_row, their_row, strict=True)]
worst = max(abs(float(mine[0]) - float(theirs[0])) for mine, theirs in pairs)
greedy = sum(mine[1] == theirs[1] for mine, theirs in pairs)
print(f"{len(pairs)} log-likelihoods: largest difference {worst:.1e}; is_greedy equal in {greedy}")
assert worst < TOLERANCE and greedy == len(pairs)

texts = list(zip(served[1]["potions_write"], loaded[1]["potions_write"], strict=True))
same = sum(mine == theirs for mine, theirs in texts)
print(f"{len(texts)} greedy texts: {same} the same, such as {texts[0][0]}")
assert same == len(texts), [pair for pair in texts if pair[0] != pair[1]]
