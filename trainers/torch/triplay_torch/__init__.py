"""triplay's training steps in PyTorch: a process that triplay starts, keeps and asks through two pipes.

`__main__` speaks the protocol, `job` turns files into files, `decoder` holds models, `batch` cuts rows into micro-batches,
`losses` has the mathematics. The README beside this package describes the protocol.
"""

PROTOCOL = 1
