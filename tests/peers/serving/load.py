"""Streams completions from a server, 1, 8 and 64 at once, and prints tokens a second and the time to the first token.

Usage: load.py URL NAME     (needs aiohttp)

Prompts differ from their first token, so that no server has one in its cache; each completion is 48 tokens, greedy, past any end token.
"""
import asyncio
import json
import statistics
import sys
import time

import aiohttp

url, name = sys.argv[1:]
LENGTH = 48
PROMPT = "of the dragon Ashwing, who keeps moonmilk in a cave below the northern hills and sells it to travelers for a song"


async def one(session, row):
    body = {"model": "smollm2", "prompt": f"{row} tales {PROMPT}", "max_tokens": LENGTH, "temperature": 0, "seed": 7, "ignore_eos": True,
            "stream": True, "stream_options": {"include_usage": True}}
    begun, first, tokens = time.perf_counter(), None, 0
    async with session.post(f"{url}/v1/completions", json=body) as response:
        assert response.status == 200, await response.text()
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            first = first or time.perf_counter() - begun
            tokens = (json.loads(line[6:]).get("usage") or {}).get("completion_tokens", tokens)
    assert tokens == LENGTH, f"{tokens} tokens, not {LENGTH}"
    return first


async def main():
    timeout, connector = aiohttp.ClientTimeout(total=600), aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        await one(session, 0)
        row = 1
        for at_once in (1, 8, 64):
            requests, firsts, begun = max(4, at_once), [], time.perf_counter()
            for _ in range(requests // at_once):
                firsts += await asyncio.gather(*(one(session, row + i) for i in range(at_once)))
                row += at_once
            seconds = time.perf_counter() - begun
            print(f"{name}, {at_once} at once: {requests * LENGTH / seconds:.0f} tokens/s, "
                  f"first token after {statistics.median(firsts) * 1000:.0f} ms (median)", flush=True)


asyncio.run(main())
