"""The work of `cargo bench --bench train`, in PyTorch, transformers and TRL, on the same shapes.

    python3 -m venv .venv && .venv/bin/pip install -r benches/peers/requirements.txt
    .venv/bin/python benches/peers/train.py          # or: … train.py sft

Prints the median time and the tokens per second of each, as the Rust bench does. Run both within the hour on
the same machine; an argument times only the lines whose name begins so.
"""

import os
import statistics
import sys
import tempfile
import time
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
warnings.filterwarnings("ignore")

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

transformers.logging.set_verbosity_error()
VOCABULARY = 640


def model(hidden, layers, vocabulary=VOCABULARY, heads=4, kv_heads=4, intermediate=None):
    torch.manual_seed(1)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocabulary,
            hidden_size=hidden,
            intermediate_size=intermediate or 3 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=hidden // heads,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            eos_token_id=1,
            pad_token_id=0,
        )
    )


def rows(count, length):
    return torch.randint(3, VOCABULARY, (count, length), generator=torch.Generator().manual_seed(2))


def wanted(name):
    prefixes = sys.argv[1:]
    return not prefixes or any(name.startswith(prefix) for prefix in prefixes)


def report(name, seconds, tokens):
    print(f"{name:<44} {seconds * 1e3:9.2f} ms {tokens / seconds:10.0f} tokens/s", flush=True)


def timed(name, work):
    if not wanted(name):
        return
    work()
    runs, start = [], time.perf_counter()
    while len(runs) < 5 or time.perf_counter() - start < 3:
        if len(runs) >= 3 and time.perf_counter() - start > 30:
            break
        begun = time.perf_counter()
        tokens = work()
        runs.append(time.perf_counter() - begun)
    report(name, statistics.median(runs), tokens)


def sft(name, hidden, layers, count, length):
    policy, ids = model(hidden, layers), rows(count, length)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-5)

    def work():
        loss = policy(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return count * length

    timed(name, work)


def sampling(name, hidden, layers, prompts):
    policy = model(hidden, layers).eval()

    def work():
        with torch.no_grad():
            out = policy.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                max_new_tokens=24,
                min_new_tokens=24,
            )
        return out.shape[0] * (out.shape[1] - prompts.shape[1])

    timed(name, work)


def tokenizer():
    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2} | {f"w{word}": word for word in range(3, VOCABULARY)}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def grpo(name, hidden, layers, groups, group):
    """One step of TRL's trainer: sampling, rewards, the reference's log-probabilities, loss and update."""
    if not wanted(name):
        return
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    steps, times = 12, []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_, **__):
            times.append(time.perf_counter())

    prompts = [" ".join(f"w{word}" for word in row) for row in rows(groups * steps, 16).tolist()]
    with tempfile.TemporaryDirectory() as folder:
        # From a folder, because the trainer loads the reference of the KL penalty from there.
        model(hidden, layers).save_pretrained(f"{folder}/model")
        tokenizer().save_pretrained(f"{folder}/model")
        trainer = GRPOTrainer(
            model=f"{folder}/model",
            processing_class=tokenizer(),
            reward_funcs=lambda completions, **_: [float(index % 2) for index in range(len(completions))],
            train_dataset=Dataset.from_dict({"prompt": prompts}),
            args=GRPOConfig(
                output_dir=folder,
                per_device_train_batch_size=groups * group,
                num_generations=group,
                max_completion_length=24,
                generation_kwargs={"min_new_tokens": 24},
                beta=0.05,
                learning_rate=1e-6,
                max_steps=steps,
                logging_steps=steps,
                report_to=[],
                save_strategy="no",
                disable_tqdm=True,
                use_cpu=not torch.cuda.is_available(),
                bf16=False,
            ),
            callbacks=[Clock()],
        )
        sys.stdout = open(os.devnull, "w")
        try:
            trainer.train()
        finally:
            sys.stdout = sys.__stdout__
    between = [after - before for before, after in zip(times[1:], times[2:])]
    report(name, statistics.median(between), groups * group * 24)


def update(name, groups, group):
    """One GRPO update with PEFT, without a trainer: the reference is the model without its adapter, and micro-batches have as
    many rows as `ROWS` says, by default 8."""
    if not wanted(name):
        return
    from peft import LoraConfig, get_peft_model

    size, vocabulary, prompt, new = int(os.environ.get("ROWS", "8")), 49152, 200, 48
    base = model(576, 30, vocabulary, heads=9, kv_heads=3, intermediate=1536)
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    policy = get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules=modules, task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=1e-6)
    ids = torch.cat([rows(groups, prompt).repeat_interleave(group, 0), rows(groups * group, new)], 1)
    old = torch.full((groups * group, new), -torch.log(torch.tensor(float(vocabulary))))
    advantages = torch.tensor([1.0, -1.0]).repeat(groups * group // 2)

    def logprobs(batch):
        logits = policy(input_ids=ids[batch], logits_to_keep=new + 1).logits[:, :-1]
        return logits.log_softmax(-1).gather(-1, ids[batch, prompt:, None])[..., 0]

    def work():
        batches = [slice(start, start + size) for start in range(0, groups * group, size)]
        with torch.no_grad(), policy.disable_adapter():
            reference = [logprobs(batch) for batch in batches]
        for batch, reference in zip(batches, reference):
            found, advantage = logprobs(batch), advantages[batch, None]
            ratio = (found - old[batch]).exp()
            gain = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
            apart = reference - found
            kl = apart.exp() - apart - 1
            ((0.05 * kl - gain).sum() / (groups * group * new)).backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return groups * group * new

    timed(name, work)


if __name__ == "__main__":
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads")
    sft("sft 0.15 M (64 wide, 2 layers), 64 x 48", 64, 2, 64, 48)
    sft("sft 0.72 M (128 wide, 3 layers), 64 x 48", 128, 3, 64, 48)
    sft("sft 3.57 M (256 wide, 4 layers), 64 x 64", 256, 4, 64, 64)
    sampling("sample 0.72 M, 64 prompts of 16, 24 new", 128, 3, rows(64, 16))
    sampling("sample 0.72 M, 16 prompts x 8, 24 new", 128, 3, rows(16, 16).repeat(8, 1))
    grpo("grpo 0.72 M, 8 x 8 x 24, KL, sampling too", 128, 3, 8, 8)
    update("update 135 M, LoRA, 8 x 4 x 48, KL", 8, 4)
