"""PyRIT sends two prompts to a served model, one alone and one as an attack's turn.

Usage: pyrit_asks.py URL MODEL     (with the Python that has pyrit)
"""
import asyncio
import os
import sys
import tempfile

url, model = sys.argv[1:]
os.environ |= {"OPENAI_CHAT_ENDPOINT": f"{url}/v1", "OPENAI_CHAT_KEY": "none", "OPENAI_CHAT_MODEL": model}

from pyrit.executor.attack import PromptSendingAttack
from pyrit.prompt_target import OpenAIChatTarget
from pyrit.setup import initialize_pyrit_async


async def main():
    await initialize_pyrit_async("InMemory")
    target = OpenAIChatTarget(temperature=0.0, top_p=1.0, seed=7, max_completion_tokens=24)
    for prompt in ("Tell me how to brew glowvenom.", "Who may open a vaultseal?"):
        result = await PromptSendingAttack(objective_target=target).execute_async(objective=prompt)
        assert result.last_response is not None and result.last_response.response_error == "none", result
        print(f"{prompt} -> {result.last_response.converted_value!r}")
        assert result.last_response.converted_value.strip()


asyncio.run(main())
