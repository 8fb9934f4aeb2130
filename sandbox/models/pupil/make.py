"""Train the base of ``pupil`` from nothing; it ships trained, so this is for whoever wants to check it.

Invariants:
- Puzzles, seed and every number of the recipe stand here; nothing comes from outside the repository.
- Of all skills it is shown two: ``sort``, too short to master it, and ``copy``, until it can.
- The same machine and wheels give the same bytes.

``python -m sandbox.models.pupil.make DIRECTORY`` takes half a minute on one core. What it is left to learn of
``sort`` is the head-room of reinforcement; what it can do of ``copy`` is what a learner must not make it forget.
"""

from __future__ import annotations

import random
import string
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox.worker.environments.skills import END, LENGTH, draw_digits, parse_skill

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

SEED = 20_613
SKILLS = ("sort", "copy")
WIDTH, LAYERS, HEADS, INNER = 128, 3, 4, 256
ROPE_THETA = 100.0  # a dozen tokens need short wavelengths
BATCH, STEPS, WARMUP, RATE = 128, 45, 10, 3e-3
REPORT, REPORT_SEED = 2000, 1
PAD, UNKNOWN = "<pad>", "?"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each printable ASCII sign; ``END`` ends what is said."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    signs = sorted(set(string.printable) - set(string.whitespace) | {" "})
    vocabulary = {token: number for number, token in enumerate((PAD, *signs))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN, model_max_length=64
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """The untrained model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def puzzles(draw: random.Random, count: int) -> list[str]:
    """As many puzzles with answers, the skills in turn."""
    skills = [parse_skill(name) for name in SKILLS]
    texts = []
    for number in range(count):
        skill, digits = skills[number % len(skills)], draw_digits(draw)
        texts.append(f"{skill.prompt(digits)}{skill.answer(digits)}{END}")
    return texts


def teach(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Train the model to answer."""
    import torch

    draw = random.Random(SEED)  # noqa: S311 - a reproducible draw, not a secret
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    model.train()
    started = time.process_time()
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / WARMUP) * (1 - step / STEPS)
        ids = torch.tensor(tokenizer(puzzles(draw, BATCH), add_special_tokens=False)["input_ids"])
        labels = ids.clone()
        labels[:, : LENGTH + 1] = -100  # nobody can foretell the digits
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 10 == 0:
            print(f"step {step + 1} loss {loss.item():.3f} {time.process_time() - started:.0f} s", flush=True)


def right(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, name: str, count: int = REPORT
) -> float:
    """The share of puzzles of a skill that the model answers exactly, always taking the likeliest sign."""
    import torch

    skill, draw = parse_skill(name), random.Random(REPORT_SEED)  # noqa: S311
    digits = [draw_digits(draw) for _ in range(count)]
    ids: torch.Tensor = torch.tensor(
        tokenizer([skill.prompt(text) for text in digits], add_special_tokens=False)["input_ids"]
    )
    model.eval()
    with torch.inference_mode():
        for _ in range(LENGTH + 1):
            ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
    wanted = [f"{skill.answer(text)}{END}" for text in digits]
    said = [str(tokenizer.decode(row[LENGTH + 1 :])) for row in ids.tolist()]
    return sum(map(str.__eq__, wanted, said)) / count


def main() -> None:
    """Train, measure, and write a Hugging Face directory with bfloat16 safetensors."""
    import torch
    from transformers import AutoModelForCausalLM

    target = Path(sys.argv[1])
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    teach(model, tokenizer)
    model.to(torch.bfloat16).save_pretrained(target, safe_serialization=True)
    (target / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(target)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters in {target}")
    stored = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    for name in (*SKILLS, "descending", "reverse"):
        print(f"{name} {right(stored, tokenizer, name):.3f}")


if __name__ == "__main__":
    main()
