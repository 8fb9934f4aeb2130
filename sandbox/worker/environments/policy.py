"""A language model as a policy: observations in, probabilities of the actions out.

Invariants:
- The policy is the model's next-token distribution after the observation, restricted to the
  environment's action tokens and renormalised. Nothing else that the model would say can become an action.
- Every forward pass has the same number of rows, padded where fewer are left, so that what a model makes
  of an observation does not depend on which others are asked about with it.
- Each distinct observation is computed once; greedy play asks for the same few again and again.
- A model that yields NaN or infinite numbers raises; it never acts.
- Observations go to the model's device; probabilities come back to the processor, where actions are chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from guardrails.errors import JobFailedError
from sandbox.worker.environments import lava

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PAD, UNKNOWN = "<pad>", "<unk>"
ROWS = 64
"""Observations in one forward pass."""


def build_tokenizer(more: str = "") -> PreTrainedTokenizerBase:
    """The tokenizer of lava models: a token for each cell sign, each place with heading, each action.

    ``more`` are further signs, each with a token behind all others.
    """
    from transformers import PreTrainedTokenizerFast

    places = [
        lava.place(lava.State(x, y, heading))
        for x in range(lava.SIDE)
        for y in range(lava.SIDE)
        for heading in range(len(lava.HEADINGS))
    ]
    signs = [lava.FLOOR, lava.WALL, lava.LAVA, lava.GOAL, *lava.HEADINGS, "/"]
    vocabulary = [PAD, UNKNOWN, *signs, *lava.ACTIONS, *places, *more]
    tokenizer = Tokenizer(
        models.WordLevel({token: index for index, token in enumerate(vocabulary)}, unk_token=UNKNOWN)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[a-e][1-5][>v<^]|."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        model_max_length=lava.SIDE * (lava.SIDE + 1) + 2,
    )


class Encoder:
    """Turns observations into rows of token ids, all of one length, and knows the action tokens.

    ``actions`` are those of the environment, in its order; the lava levels' unless said.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, actions: Sequence[str] = lava.ACTIONS) -> None:
        self._tokenizer = tokenizer
        self._unknown = tokenizer.unk_token_id
        self._names = tuple(actions)
        self.actions = torch.tensor([self._action_id(action) for action in actions])

    def _action_id(self, action: str) -> int:
        ids = self._tokenizer.encode(action, add_special_tokens=False)
        if len(ids) != 1 or ids[0] == self._unknown:
            raise JobFailedError(
                f"the model's tokenizer has no single token for the action {action!r}",
                hint=f"an action model for this environment needs the tokens {', '.join(self._names)}",
            )
        return int(ids[0])

    def encode(self, observations: Sequence[str]) -> torch.Tensor:
        """Token ids, one row for each observation."""
        rows = self._tokenizer(list(observations), add_special_tokens=False)["input_ids"]
        if len({len(row) for row in rows}) != 1:
            raise JobFailedError("the model's tokenizer gives observations of one shape different lengths")
        if any(self._unknown in row for row in rows):
            raise JobFailedError("the model's tokenizer does not know every sign of an observation")
        return torch.tensor(rows)


def action_logits(model: PreTrainedModel, ids: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """The scores of the actions after each row of token ids, on the model's device."""
    output = model(input_ids=ids.to(model.device), use_cache=False, logits_to_keep=1)
    scores: torch.Tensor = output.logits[:, -1, actions].float()
    return scores


class Policy:
    """A model in evaluation, with what it made of every observation so far."""

    def __init__(self, model: PreTrainedModel, encoder: Encoder, temperature: float = 1.0) -> None:
        self._model = model
        self._encoder = encoder
        self._temperature = temperature
        self._known: dict[str, torch.Tensor] = {}

    def log_probabilities(self, observations: Sequence[str]) -> torch.Tensor:
        """Natural logarithms of the probabilities of the actions, one row for each observation."""
        new = [text for text in dict.fromkeys(observations) if text not in self._known]
        for start in range(0, len(new), ROWS):
            chunk = new[start : start + ROWS]
            self._known.update(zip(chunk, self._compute(chunk), strict=True))
        return torch.stack([self._known[text] for text in observations])

    def _compute(self, chunk: Sequence[str]) -> torch.Tensor:
        ids = self._encoder.encode(chunk)
        padded = torch.cat([ids, ids[:1].expand(ROWS - len(ids), -1)])
        with torch.no_grad():
            scores = action_logits(self._model, padded, self._encoder.actions)[: len(ids)]
        if not torch.isfinite(scores).all():
            raise JobFailedError(
                "the model's scores of the actions are not finite numbers",
                hint="its weights are damaged, or its training diverged",
            )
        return (scores / self._temperature).log_softmax(-1).cpu()
