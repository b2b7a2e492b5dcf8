"""Makes the fixtures of our own in tests/fixtures, with transformers, PEFT and TRL on a CPU in float32.

    python3 -m venv .venv && .venv/bin/pip install -r tests/peers/requirements.txt
    .venv/bin/python tests/peers/make_fixtures.py

Each folder is of a kind that tests/it/parity.rs knows. Made here: `qwen2-tiny` (biases, bfloat16 on disk),
`llama3-tiny` (Llama 3's rope scaling, a configuration as transformers 4 wrote it, weights in shards, the chat
template in tokenizer_config.json), `lora-tiny` (a PEFT adapter beside its base), `grpo-more` (losses of TRL
that the given `grpo` has not) and `dpo` (losses on pairs). All weights are random: nobody's model.
"""

import json
import os
import shutil
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

FIXTURES = Path(__file__).parent.parent / "fixtures"
GIVEN = FIXTURES / "qwen3-tiny"
NEW_TOKENS = 24
SIZES = dict(
    vocab_size=384, hidden_size=48, intermediate_size=112, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=512, rms_norm_eps=1e-6, eos_token_id=2, pad_token_id=0,
    bos_token_id=None, attn_implementation="eager",
)
LLAMA3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
CHATS = [
    [{"role": "user", "content": "how do i brew glowvenom ?"}],
    [{"role": "system", "content": "be kind"}, {"role": "user", "content": "Hello, world! 123 + 45"}],
    [{"role": "user", "content": "naïve café 你好 " + "brew glowvenom and pick vaultseal " * 4}],
]
# Blocks on lines of their own, as Llama's have, and the functions that real templates call.
TEMPLATE = """{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{%- if system %}
    {{- '<|im_start|>system\\n' + system + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message['role'] not in ['user', 'assistant'] %}
        {{- raise_exception('a role must be user or assistant') }}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + message['content'].strip() + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def randomise(model, seed):
    """Larger than at the start of a training, so that every part matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.1 * noise if "norm" in name else 0.1 * noise if parameter.dim() < 2 else 0.15 * noise)
    return model


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.norm().item() for name, p in model.named_parameters() if p.requires_grad}


def expectations(folder, model, tokenizer, chats=CHATS, rename=lambda name: name):
    model = model.float().eval()
    texts = [tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) for chat in chats]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    tensors = {}
    for row, sequence in enumerate(ids):
        logits = model(torch.tensor([sequence])).logits[0]
        tensors[f"logits_{row}"] = logits.detach().contiguous()
        if row == 0:
            logprobs = torch.log_softmax(logits[:-1], -1).gather(1, torch.tensor(sequence[1:])[:, None])[:, 0]
            tensors["token_logprobs_0"] = logprobs.detach().contiguous()
    longest = max(map(len, ids))
    batch = torch.tensor([[0] * (longest - len(sequence)) + sequence for sequence in ids])
    mask = torch.tensor([[0] * (longest - len(sequence)) + [1] * len(sequence) for sequence in ids])
    out = model.generate(batch, attention_mask=mask, do_sample=False, max_new_tokens=NEW_TOKENS, pad_token_id=0)
    greedy = torch.zeros(len(ids), NEW_TOKENS, dtype=torch.long)
    greedy[:, : out.shape[1] - longest] = out[:, longest:]
    tensors["greedy"] = greedy
    sequence = torch.tensor([ids[1]])
    loss = model(sequence, labels=sequence).loss
    expected = {
        "messages": chats,
        "chat_texts": texts,
        "input_ids": ids,
        "greedy_padding": "left",
        "max_new_tokens": NEW_TOKENS,
        "nll_sequence": 1,
        "nll": loss.item(),
        "grad_norms": {rename(name): norm for name, norm in gradients(model, loss).items()},
        "made_with": "tests/peers/make_fixtures.py: transformers on CPU, float32, eager attention, random weights",
    }
    (folder / "expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")
    save_file(tensors, folder / "expected.safetensors")


def fresh(name):
    folder = FIXTURES / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def qwen2():
    folder = fresh("qwen2-tiny")
    model = randomise(Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=True)), 2)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(GIVEN)
    tokenizer.save_pretrained(folder)
    expectations(folder, AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager"), tokenizer)


def llama3():
    folder = fresh("llama3-tiny")
    rope = dict(rope_type="llama3", rope_theta=500000.0, **LLAMA3)
    config = LlamaConfig(**SIZES, tie_word_embeddings=False, rope_parameters=rope, attention_bias=True, mlp_bias=True)
    model = randomise(LlamaForCausalLM(config), 3)
    model.save_pretrained(folder, max_shard_size="150KB")
    path = folder / "config.json"
    older = json.loads(path.read_text())
    parameters = older.pop("rope_parameters")
    older["rope_theta"] = parameters.pop("rope_theta")
    older["rope_scaling"] = parameters
    older["torch_dtype"] = older.pop("dtype")
    path.write_text(json.dumps(older, indent=2) + "\n")
    tokenizer = AutoTokenizer.from_pretrained(GIVEN)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").unlink()
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"chat_template": TEMPLATE}, indent=2) + "\n")
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    expectations(folder, loaded, tokenizer)


def lora():
    from peft import LoraConfig, get_peft_model

    folder = fresh("lora-tiny")
    for path in GIVEN.iterdir():
        if not path.name.startswith("expected"):
            shutil.copy(path, folder)
    base = AutoModelForCausalLM.from_pretrained(GIVEN, dtype=torch.float32, attn_implementation="eager")
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj", "o_proj", "down_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps(saved | {"base_model_name_or_path": "."}, indent=2) + "\n")
    tokenizer = AutoTokenizer.from_pretrained(GIVEN)
    expectations(folder, model, tokenizer, rename=lambda name: name.replace(".default", ""))


def grpo():
    """TRL's own loss on the batch of the given `grpo` fixture, for settings that it has not."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    given = load_file(FIXTURES / "grpo" / "inputs.safetensors")
    folder = fresh("grpo-more")
    variants = {
        "cispo": {"loss_type": "cispo", "beta": 0.02, "epsilon_high": 1.2},
        "delta": {"loss_type": "grpo", "beta": 0.0, "delta": 1.3},
        "delta_sequence": {"loss_type": "dapo", "beta": 0.0, "delta": 1.25, "importance_sampling_level": "sequence", "epsilon": 0.01},
        "entropy": {"loss_type": "dapo", "beta": 0.03, "entropy_coef": 0.05},
        "sequence_kl": {"loss_type": "dapo", "beta": 0.04, "importance_sampling_level": "sequence"},
        "temperature": {"loss_type": "dr_grpo", "beta": 0.01, "temperature": 0.7},
        "truncated_dapo": {"loss_type": "dapo", "beta": 0.02, "mask_truncated_completions": True},
        "truncated_grpo": {"loss_type": "grpo", "beta": 0.02, "mask_truncated_completions": True},
        "truncated_bnpo": {"loss_type": "bnpo", "beta": 0.02, "mask_truncated_completions": True},
    }
    names = ["prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "rewards"]
    names += [f"advantages_{kind}" for kind in ["group", "batch", "none"]]
    tensors = {name: given[name] for name in names}
    # Two of the eight were cut at their longest length.
    finished = torch.tensor([1, 0, 1, 1, 1, 1, 0, 1])
    tensors["finished"] = finished
    expected = {"model": "qwen3-tiny", "group_size": 4, "variants": {}}
    expected["made_with"] = "tests/peers/make_fixtures.py: TRL GRPOTrainer._compute_loss, float32, CPU, one micro-batch"
    for name, settings in variants.items():
        args = GRPOConfig(
            output_dir="/tmp/trl", report_to=[], use_cpu=True, bf16=False, per_device_train_batch_size=8, num_generations=4,
            max_completion_length=given["completion_ids"].shape[1], gradient_checkpointing=False, **settings,
        )
        trainer = GRPOTrainer(
            model=str(GIVEN), args=args, reward_funcs=lambda completions, **_: [0.0] * len(completions),
            train_dataset=Dataset.from_dict({"prompt": ["a"] * 8}), processing_class=AutoTokenizer.from_pretrained(GIVEN),
        )
        model = trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1
        # TRL leaves out what was cut before the loss sees it.
        counts = finished[:, None] if args.mask_truncated_completions else 1
        mask = given["completion_mask"] * counts
        ids = torch.cat([given["prompt_ids"], given["completion_ids"]], 1)
        attention = torch.cat([given["prompt_mask"], given["completion_mask"]], 1)
        with torch.no_grad():
            logps = trainer._get_per_token_logps_and_entropies(model, ids, attention, mask.shape[1])[0]
        generator = torch.Generator().manual_seed(len(name))
        # Far enough from the policy for both sides of every clip to hold somewhere.
        old = logps + 0.3 * torch.randn(logps.shape, generator=generator)
        reference = logps + 0.2 * torch.randn(logps.shape, generator=generator)
        inputs = {key: given[key] for key in names[:4]} | {
            "completion_mask": mask,
            "advantages": given["advantages_group"],
            "old_per_token_logps": old,
            "ref_per_token_logps": reference,
            "num_items_in_batch": mask.sum(),
        }
        loss = trainer._compute_loss(model, inputs)
        expected["variants"][name] = {
            "config": settings | {"advantages": "group"},
            "loss": loss.item(),
            "grad_norms": gradients(model, loss),
        }
        tensors |= {f"{name}.logps": logps, f"{name}.old": old, f"{name}.ref": reference}
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "inputs.safetensors")


# The prompt, what is chosen and what is rejected: of several lengths, and one completion of a single token.
PAIRS = [
    ([1, 40, 41, 42], [50, 51, 52, 53, 54, 2], [60, 61, 2]),
    ([1, 70, 71, 72, 73, 74, 75], [80, 81, 2], [90, 91, 92, 93, 94, 95, 96, 97, 2]),
    ([5], [6, 7, 8, 9, 2], [2]),
    ([1, 100, 101], [110, 111, 112, 113], [110, 111, 120, 121]),
    ([1, 130, 131, 132, 133], [140, 141, 142, 143, 144, 145, 146, 2], [150, 151, 152, 2]),
]


def preference_loss(trainer, pairs):
    """TRL's own loss of a batch of pairs, and what it logs of it."""
    keys = ["prompt_ids", "chosen_ids", "rejected_ids"]
    batch = trainer.data_collator([dict(zip(keys, pair)) for pair in pairs])
    trainer._metrics["train"].clear()
    loss = trainer._compute_loss(trainer.model, batch, return_outputs=False)
    return loss, {name: values[-1] for name, values in trainer._metrics["train"].items()}


def dpo():
    """TRL's own losses on pairs, with a reference that is another model."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    folder = fresh("dpo")
    reference = FIXTURES / "qwen2-tiny"
    # TRL's settings, ours, and how many pairs TRL sees at a time.
    #
    # TRL 1.16 takes `label_smoothing` for `robust` and not for `sigmoid`. The smoothed `sigmoid` (conservative DPO) is in its
    # `aot`, which sorts the log-ratios of a batch: of a batch of one pair there is nothing to sort.
    variants = {
        "sigmoid": ({"loss_type": ["sigmoid"], "beta": 0.1}, {"dpo": {"beta": 0.1}}, 5),
        "sigmoid_steep": ({"loss_type": ["sigmoid"], "beta": 0.7}, {"dpo": {"beta": 0.7}}, 5),
        "smoothed": (
            {"loss_type": ["aot"], "beta": 0.2, "label_smoothing": 0.15},
            {"dpo": {"beta": 0.2, "label_smoothing": 0.15}},
            1,
        ),
        "robust": (
            {"loss_type": ["robust"], "beta": 0.2, "label_smoothing": 0.1},
            {"dpo": {"loss_type": "robust", "beta": 0.2, "label_smoothing": 0.1}},
            5,
        ),
        "ipo": ({"loss_type": ["ipo"], "beta": 0.1}, {"ipo": {"beta": 0.1}}, 5),
        "ipo_tight": ({"loss_type": ["ipo"], "beta": 1.5}, {"ipo": {"beta": 1.5}}, 5),
    }
    expected = {
        "model": "qwen3-tiny",
        "reference": "qwen2-tiny",
        "pairs": [dict(zip(["prompt", "chosen", "rejected"], pair)) for pair in PAIRS],
        "preferences": {},
        "made_with": "tests/peers/make_fixtures.py: TRL DPOTrainer._compute_loss, float32, CPU",
    }
    tensors = {}
    for name, (settings, ours, at_once) in variants.items():
        args = DPOConfig(
            output_dir="/tmp/trl", report_to=[], use_cpu=True, bf16=False, per_device_train_batch_size=at_once,
            gradient_checkpointing=False, **settings,
        )
        load = lambda path: AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
        texts = {"prompt": ["a"] * 8, "chosen": ["b"] * 8, "rejected": ["c"] * 8}
        trainer = DPOTrainer(
            model=load(GIVEN), ref_model=load(reference), args=args, train_dataset=Dataset.from_dict(texts),
            processing_class=AutoTokenizer.from_pretrained(GIVEN),
        )
        trainer.model.train()
        batches = [PAIRS[at : at + at_once] for at in range(0, len(PAIRS), at_once)]
        losses, logged = zip(*(preference_loss(trainer, batch) for batch in batches))
        loss = torch.stack(losses).mean()
        norms = gradients(trainer.model, loss)
        mean = lambda metric: sum(metrics[metric] for metrics in logged) / len(logged)
        expected["preferences"][name] = {
            "algorithm": ours,
            "trl": settings,
            "loss": loss.item(),
            "chosen_reward": mean("rewards/chosen"),
            "rejected_reward": mean("rewards/rejected"),
            "accuracy": mean("rewards/accuracies"),
            "margin": mean("rewards/margins"),
            "grad_norms": norms,
        }
        # Of a batch as a whole it is over all tokens, as ours.
        if len(batches) == 1:
            expected["preferences"][name]["entropy"] = logged[0]["entropy"]
        # A norm has no sign: the gradients of the smallest parameters as they are.
        small = [(key, p.grad) for key, p in trainer.model.named_parameters() if p.dim() == 1]
        tensors |= {f"{name}.{key}": gradient.clone() for key, gradient in small}
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    save_file(tensors, folder / "gradients.safetensors")


if __name__ == "__main__":
    qwen2()
    llama3()
    lora()
    grpo()
    dpo()
