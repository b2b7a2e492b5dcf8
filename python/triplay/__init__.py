"""Reads the runs of triplay: metrics, datasets and models.

>>> import triplay
>>> run = triplay.open("latest")
>>> run.metrics().to_pandas()
>>> run.dataset("play[1]/red[20]/rewards")
"""

from ._find import open, runs
from ._run import Error, Run

__all__ = ["Error", "Run", "open", "runs"]
