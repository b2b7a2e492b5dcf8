"""Compares what both trainers made of the same steps: `agree.py FOLDER LIMIT`, the folder of a run of agree.yaml."""

import json
import sys
from pathlib import Path

from safetensors.torch import load_file

folder, limit = Path(sys.argv[1]), float(sys.argv[2])
run = max((folder / "results/agree").iterdir())
outputs = {}
for node in map(json.loads, (run / "nodes.jsonl").read_text().splitlines()):
    for output in node["outputs"]:
        digest = output["digest"]
        outputs[f"{node['node']}.{output['name']}"] = folder / ".triplay/blobs" / digest[:2] / digest


def apart(one, other):
    """The largest difference of a weight, and of a moment; the files are the same in names, shapes and types."""
    one, other = outputs[f"{one}.model"], outputs[f"{other}.model"]
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in other.iterdir())
    trained = "adapter_model.safetensors" if (one / "adapter_model.safetensors").exists() else "model.safetensors"
    found = []
    for name in [trained, "optimizer.safetensors"]:
        if not (one / name).exists():
            continue
        a, b = load_file(one / name), load_file(other / name)
        assert {key: (value.shape, value.dtype) for key, value in a.items()} == {key: (value.shape, value.dtype) for key, value in b.items()}
        found.append(max((a[key].double() - b[key].double()).abs().max().item() for key in a))
    return found


for name in ["adapter", "full", "dpo", "ipo", "sft", "new"]:
    found = apart(f"{name}[here]", f"{name}[torch]")
    print(f"{name}: weights differ by at most {found[0]:.1e}" + (f", moments {found[1]:.1e}" if found[1:] else ""))
    assert found[0] < limit, name
found = apart("here_then_torch", "torch_then_here")
print(f"a second step by the other trainer: weights differ by at most {found[0]:.1e}, moments {found[1]:.1e}")
assert found[0] < limit
print(f"in bf16: weights differ by at most {apart('adapter[here]', 'bf16')[0]:.1e} from f32")
