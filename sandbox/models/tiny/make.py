"""Train the ``tiny`` model from nothing; it ships trained, so this is for whoever wants to check it.

Invariants:
- Text, seed and every number of the recipe stand here; nothing comes from outside the repository.
- The same machine and wheels give the same bytes.

``python -m sandbox.models.tiny.make DIRECTORY`` takes one to two minutes on one core.
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox import texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SEED = 20_611
VOCABULARY = 2048
WIDTH, LAYERS, HEADS = 128, 4, 4
LENGTH, BATCH, STEPS = 128, 4, 1400
RATE, WARMUP, FLOOR = 3e-3, 40, 0.05
SEPARATOR = "<|endoftext|>"


def corpus() -> list[str]:
    """The King James slice, chapter by chapter."""
    chapters: dict[str, list[str]] = {}
    for record in texts.load("kjv"):
        chapters.setdefault(record["id"].rsplit("-", 1)[0], []).append(record["text"])
    return ["\n".join(verses) for verses in chapters.values()]


def make_tokenizer(chapters: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 2,048 tokens: every text can be encoded, none is unknown."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[SEPARATOR],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(chapters, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=SEPARATOR, eos_token=SEPARATOR, pad_token=SEPARATOR
    )


def main() -> None:
    """Train, and write a Hugging Face directory with bfloat16 safetensors."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    chapters = corpus()
    tokenizer = make_tokenizer(chapters)
    tokens = torch.tensor(
        [token for chapter in chapters for token in (*tokenizer.encode(chapter), tokenizer.eos_token_id)]
    )
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
    started = time.process_time()
    for step in range(STEPS):
        rising = min(1.0, (step + 1) / WARMUP)
        falling = FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        for group in optimizer.param_groups:
            group["lr"] = RATE * rising * falling
        starts = torch.randint(len(tokens) - LENGTH, (BATCH,))
        ids = torch.stack([tokens[at : at + LENGTH] for at in starts])
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 100 == 0 or step == STEPS - 1:
            print(
                f"step {step}: loss {loss.item():.3f}, {time.process_time() - started:.0f} s of CPU",
                flush=True,
            )
    model.to(torch.bfloat16).save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(out)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters in {out}")


if __name__ == "__main__":
    main()
