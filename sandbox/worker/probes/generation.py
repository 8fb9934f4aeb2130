"""Text that a model writes for a prompt, for people to read.

Invariants:
- Greedy: the same model and prompts give the same text.
- What comes back is text, never interpreted; special tokens are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NEW_TOKENS = 32


def continue_texts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]
) -> list[str]:
    """What the model writes after each prompt, all prompts in one batch."""
    return continue_ids(
        model, tokenizer, [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    )


def continue_ids(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[int]]
) -> list[str]:
    """What the model writes after each row of tokens, at most ``NEW_TOKENS`` tokens."""
    import torch

    width = max(len(row) for row in rows)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (tokenizer.eos_token_id or 0)
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    with torch.inference_mode():
        written: Any = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            num_beams=1,
            pad_token_id=pad,
        )
    return [tokenizer.decode(row[width:], skip_special_tokens=True) for row in written]


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """The tokens before an answer: the model's chat template where it has one, else the prompt and a line end."""
    if tokenizer.chat_template is None:
        return list(tokenizer(f"{prompt}\n", add_special_tokens=False)["input_ids"])
    message = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
