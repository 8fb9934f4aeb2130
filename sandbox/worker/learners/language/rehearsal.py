"""Rehearsal: the champion's own words after other prompts, so that what nobody asked about is not forgotten.

Invariants:
- What is rehearsed is what the champion says; no record and no answer of anybody is needed for it.
- The same champion, prompts and seed give the same rows.

A prompt that is trained on, with one token exchanged, is a prompt that nobody asked about. Every other time it is the
last token, which is often what says what is to be done.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from sandbox.worker.learners.language.pairs import IGNORED, Row, tensors
from sandbox.worker.learners.language.sampling import scored_in_one

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ROWS = 128
"""Prompts that are continued at once, where memory does not say less."""


def rehearsals(
    champion: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]], number: int,
    tokens: int, seed: int, at_once: int = ROWS,
) -> list[Row]:  # fmt: skip
    """``number`` prompts with one token exchanged, and what the champion says to them in at most ``tokens`` tokens."""
    draw = random.Random(f"{seed}/rehearsal")  # noqa: S311 - a draw to be repeated, not a secret
    special = set(tokenizer.all_special_ids)
    vocabulary = [token for token in range(len(tokenizer)) if token not in special]
    made: dict[int, list[list[int]]] = {}
    for turn in range(number):
        prompt = list(prompts[draw.randrange(len(prompts))])
        prompt[-1 if turn % 2 else draw.randrange(len(prompt))] = draw.choice(vocabulary)
        made.setdefault(len(prompt), []).append(prompt)
    end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    rows: list[Row] = []
    champion.eval()
    # Prompts of one length go together: then nothing has to be padded.
    for _, alike in sorted(made.items()):
        for at in range(0, len(alike), at_once):
            some = alike[at : at + at_once]
            written, _ = greedy(champion, torch.tensor(some), tokens, tokenizer.eos_token_id)
            for prompt, said in zip(some, written, strict=True):
                rows.append((prompt + said + end, [IGNORED] * len(prompt) + said + end))
    draw.shuffle(rows)
    return rows


def greedy(
    model: PreTrainedModel, ids: torch.Tensor, tokens: int, end: int | None
) -> tuple[list[list[int]], list[float]]:
    """The likeliest continuation of each row, without its end, and the product of its tokens' probabilities."""
    step = ids.to(model.device)
    chance = torch.zeros(len(ids), device=step.device)
    alive = torch.ones(len(ids), dtype=torch.bool, device=step.device)
    written: list[list[int]] = [[] for _ in ids]
    cache = None
    with torch.inference_mode():
        for _ in range(tokens):
            with scored_in_one(model):
                out = model(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = out.past_key_values
            best, token = out.logits[:, -1].float().log_softmax(-1).max(-1)
            chance += best * alive
            alive &= token != (-1 if end is None else end)
            for row in alive.nonzero().flatten().tolist():
                written[row].append(int(token[row]))
            if not bool(alive.any()):
                break
            step = token[:, None]
    return written, [math.exp(value) for value in chance.tolist()]


def chances(model: PreTrainedModel, rows: Sequence[Row]) -> torch.Tensor:
    """Logarithms of the probabilities of all tokens at each place that is learnt, one row a place."""
    ids, labels, mask = tensors(rows, model.device)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    found: torch.Tensor = logits[:, :-1][labels[:, 1:] != IGNORED].float().log_softmax(-1)
    return found


def divergence(before: torch.Tensor, now: torch.Tensor) -> torch.Tensor:
    """How far what is said has moved, in nats: the mean over places, of two tables of ``chances``."""
    return (before.exp() * (before - now)).sum(-1).mean()
