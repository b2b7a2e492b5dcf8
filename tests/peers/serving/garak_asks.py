"""garak's harmless test probe asks a served model; every prompt is answered and the report says so.

Usage: garak_asks.py URL MODEL     (with the Python that has garak)
"""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

url, model = sys.argv[1:]
with tempfile.TemporaryDirectory() as here:
    # The fields are garak's own but for `max_tokens`, which keeps the run short.
    options = {"openai": {"OpenAICompatible": {"uri": f"{url}/v1", "max_tokens": 16, "seed": 7}}}
    Path(here, "options.json").write_text(json.dumps(options))
    done = subprocess.run(
        [sys.executable, "-m", "garak", "--target_type", "openai.OpenAICompatible", "--target_name", model, "--generator_option_file",
         f"{here}/options.json", "--probes", "test.Test", "--generations", "1", "--report_prefix", f"{here}/potions"],
        env=os.environ | {"OPENAICOMPATIBLE_API_KEY": "none", "XDG_DATA_HOME": here, "XDG_CONFIG_HOME": here, "XDG_CACHE_HOME": here},
        cwd=here, capture_output=True, text=True)
    report = Path(here, "potions.report.jsonl")
    if done.returncode or not report.exists():
        sys.exit(f"garak failed ({done.returncode}):\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    rows = [json.loads(line) for line in report.read_text().splitlines()]
attempts = [row for row in rows if row["entry_type"] == "attempt" and row["status"] == 2]
evaluation = next(row for row in rows if row["entry_type"] == "eval")
answers = [output["text"] if isinstance(output, dict) else output for row in attempts for output in row["outputs"] if output]
print(f"{len(attempts)} attempts, {len(answers)} answered, such as {answers[1]!r}; evaluation: "
      + ", ".join(f"{key} {evaluation[key]}" for key in ("probe", "detector", "passed", "total_evaluated") if key in evaluation))
assert len(attempts) == 8 and len(answers) == 8
