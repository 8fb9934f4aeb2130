"""Text that a model writes for a prompt, for people to read.

Invariants:
- Greedy: the same model and prompts give the same text.
- What comes back is text, never interpreted; special tokens are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from guardrails.errors import JobFailedError

if TYPE_CHECKING:
    import torch
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
    """What the model writes after each row of tokens, at most ``NEW_TOKENS`` tokens.

    A loop of its own, because no generation settings that lie beside a model may bend what is shown.
    """
    import torch

    width = max(len(row) for row in rows)
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    written: list[torch.Tensor] = []
    past = None
    with torch.inference_mode():
        while len(written) < NEW_TOKENS:
            output = model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=past,
                use_cache=True,
            )
            past = output.past_key_values
            ids = likeliest(output.logits[:, -1:])
            written.append(ids)
            mask = torch.cat([mask, torch.ones_like(ids)], dim=-1)
            positions = positions[:, -1:] + 1
    return [_text(tokenizer, row) for row in torch.cat(written, dim=-1).tolist()]


def likeliest(logits: torch.Tensor) -> torch.Tensor:
    """The token with the highest score in each row, of several the first.

    Raises:
        JobFailedError: a highest score is not a finite number: no token is the likeliest then, least of all the first.
    """
    import torch

    found = logits.argmax(-1)
    if not torch.isfinite(logits.gather(-1, found[..., None])).all():
        raise JobFailedError(
            "the model's scores of tokens are not finite numbers",
            hint="its weights are damaged, or its training diverged",
        )
    return found


def _text(tokenizer: PreTrainedTokenizerBase, row: list[int]) -> str:
    end = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row)
    return str(tokenizer.decode(row[:end], skip_special_tokens=True))


def prompt_text(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """What stands before an answer: by the model's chat template where it has one, else with a line end."""
    if tokenizer.chat_template is None:
        return f"{prompt}\n"
    message = [{"role": "user", "content": prompt}]
    return str(tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """The tokens of what stands before an answer."""
    return list(tokenizer(prompt_text(tokenizer, prompt), add_special_tokens=False)["input_ids"])
