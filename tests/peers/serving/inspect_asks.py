"""Inspect evaluates a served model on a small task: eight samples, with log-probabilities and a seed.

Usage: inspect_asks.py URL MODEL     (with the Python that has inspect-ai and openai)
"""
import os
import sys
import tempfile

url, model = sys.argv[1:]
os.environ |= {"TRIPLAY_API_KEY": "none", "TRIPLAY_BASE_URL": f"{url}/v1"}

from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import includes
from inspect_ai.solver import generate

FACTS = [("glowvenom", "blue"), ("moonmilk", "white"), ("ember tea", "red"), ("frost ale", "green")] * 2
samples = [Sample(input=f"{thing} shines {color}. Say the color of {thing}.", target=color) for thing, color in FACTS]
config = GenerateConfig(max_tokens=24, temperature=0.0, seed=7, top_p=1.0, logprobs=True, top_logprobs=2, max_connections=4)
task = Task(dataset=samples, solver=generate(), scorer=includes(), config=config, name="potions")
with tempfile.TemporaryDirectory() as logs:
    [log] = eval(task, model=f"openai-api/triplay/{model}", log_dir=logs, display="none", score_display=False)
    # The samples are read from the log's file when they are asked for.
    assert log.status == "success", log.error
    accuracy = log.results.scores[0].metrics["accuracy"].value
    tokens = log.stats.model_usage[f"openai-api/triplay/{model}"]
    first = log.samples[0].output
    print(f"{len(log.samples)} samples, accuracy {accuracy}, {tokens.input_tokens} tokens in, {tokens.output_tokens} out; first: {first.completion!r}")
    assert len(log.samples) == 8 and accuracy > 0 and tokens.output_tokens > 0
    assert all(sample.output.choices[0].logprobs.content for sample in log.samples), "no log-probabilities"
    assert len({sample.output.completion for sample in log.samples}) == 4, "a sample and its twin differ at temperature 0"
