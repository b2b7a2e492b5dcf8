"""The work of `cargo bench --bench reward`, by NLTK, sacrebleu and NumPy.

    python3 -m venv .venv && .venv/bin/pip install nltk==3.9.* sacrebleu==2.* numpy
    .venv/bin/python benches/peers/reward.py

Self-BLEU of 4,096 texts against 4,096 takes these libraries hours, since they count all references again for each
text: so a few texts are timed and the time of all is computed from that. NumPy does all of its work.
"""

import random
import statistics
import time

import numpy
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from sacrebleu.metrics import BLEU

ATTACKS = POOL = 4096
WORDS = 600
SOME = 4


def texts(count, seed):
    draw = random.Random(seed)
    word = lambda: f"w{int(WORDS * draw.random() ** 3)}"
    return [" ".join(word() for _ in range(12 + i % 9)) for i in range(count)]


def timed(name, work, times=1, share=1):
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    scaled = f", from {SOME} of them" if share > 1 else ""
    print(f"{name:<48} {statistics.median(seconds) * share * 1e3:12.1f} ms{scaled}", flush=True)


def nltk(attacks, pool):
    smoothing = SmoothingFunction().method1
    weights = [tuple(1 / n for _ in range(n)) for n in (3, 4, 5)]
    references = [text.split() for text in pool]
    for attack in attacks:
        sentence_bleu(references, attack.split(), weights, smoothing_function=smoothing)


def sacrebleu(attacks, pool):
    for order in (3, 4, 5):
        bleu = BLEU(max_ngram_order=order, tokenize="none", smooth_method="floor", effective_order=True)
        for attack in attacks:
            bleu.sentence_score(attack, pool)


def nearest(attacks, pool):
    unit = lambda rows: rows / numpy.linalg.norm(rows, axis=1, keepdims=True)
    similarities = unit(attacks) @ unit(pool).T
    return numpy.partition(similarities, -5, axis=1)[:, -5:].mean(1)


pool, attacks = texts(POOL, 1), texts(ATTACKS, 2)
share = ATTACKS / SOME
timed("Self-BLEU 3 to 5, 4096 against 4096, NLTK", lambda: nltk(attacks[:SOME], pool), 3, share)
timed("the same, sacrebleu", lambda: sacrebleu(attacks[:SOME], pool), 3, share)
for width in (96, 384):
    draw = numpy.random.default_rng(2)
    rows = [draw.random((count, width), dtype=numpy.float32) - 0.3 for count in (ATTACKS, POOL)]
    timed(f"5 nearest of 4096, 4096 of {width} numbers, NumPy", lambda: nearest(*rows), 7)
