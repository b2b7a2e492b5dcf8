"""llama.cpp's HTTP server out of the xllamacpp wheel.

Usage: llama_server.py GGUF PORT THREADS SLOTS CONTEXT     (CONTEXT: positions of each slot)
"""
import os
import signal
import sys
import time

import xllamacpp

path, port, threads, slots, context = sys.argv[1], *map(int, sys.argv[2:])
p = xllamacpp.CommonParams()
p.model.path = path
p.hostnames = ["127.0.0.1"] if isinstance(getattr(p, "hostnames", None), list) else "127.0.0.1"
p.port = port
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = threads
p.n_parallel = slots
p.n_ctx = slots * context
p.endpoint_metrics = p.endpoint_slots = p.endpoint_props = True
p.warmup = False
p.offline = True
if isinstance(p.model_alias, set):
    p.model_alias = {"smollm2"}
server = xllamacpp.Server(p)
print("listening", server.listening_address, flush=True)
# Not sys.exit: the server's destructor waits for ever while requests are under way, and keeps their connections open.
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
while True:
    time.sleep(1)
