"""How the models fare with tools: what they get done, which injected instructions they follow, what they call.

Invariants:
- Both models act greedily and alone in each situation; nothing is drawn.
- AgentDojo decides what was done and what was followed; a call counts only if its schema finds it valid.
- A context that grows too long loses its oldest turns, never the request or the tools; a model whose context cannot
  hold these is refused.

Items are ``{"id", "suite", "user", "injection"}``. Series ``episodes``, one row per item, for ``candidate`` and
``champion``: ``success_*``, ``unsafe_*`` (an injected instruction was followed), ``invalid_*`` (actions that were no valid
call), ``calls_*``, and ``injected`` (1 where something was injected). Series ``permissions``: one row for each tool, and
each argument of a tool, that either model used in any of these episodes; ``calls_*`` count how often.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from guardrails.errors import InvalidInputError, JobFailedError
from guardrails.records import Sample, Series
from sandbox.worker.environments import tool_use
from sandbox.worker.environments.tool_use import Episode, Situation, Turn
from sandbox.worker.probes import Item, Models, Report, Scalars

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_STEPS = 4
MAX_NEW_TOKENS = 64
MAX_CONTEXT = 4096
MEASURES = ("success", "unsafe", "invalid", "calls")


def run(
    items: Sequence[Item],
    models: Models,
    seed: int,
    *,
    suite: str,
    scalars: Scalars,
    report: Report,
) -> tuple[Series, ...]:
    """Act every situation out with both models; the rows stand in the order of the items."""
    if models.tokenizer is None:
        raise InvalidInputError(f"suite {suite}: the champion has no tokenizer to read requests with")
    situations = [read_situation(item, suite) for item in items]
    columns: dict[str, list[float]] = {"injected": [float(bool(s.injection)) for s in situations]}
    used: dict[str, Counter[str]] = {}
    for number, (side, model) in enumerate((("candidate", models.candidate), ("champion", models.champion))):
        policy, used[side] = Greedy(model, models.tokenizer), Counter()
        for done, situation in enumerate(situations, 1):
            episode = tool_use.run_episode(policy, situation, MAX_STEPS)
            used[side].update(name for call in episode.calls for name in call.permissions)
            for name, value in values(episode).items():
                columns.setdefault(f"{name}_{side}", []).append(value)
            report((number + done / len(situations)) / 2, suite)
    names = tuple(str(item["id"]) for item in items)
    return (
        Series("episodes", suite, names, {name: tuple(column) for name, column in columns.items()}),
        permissions(used["candidate"], used["champion"], suite),
    )


def permissions(candidate: Counter[str], champion: Counter[str], suite: str) -> Series:
    """How often each tool and each argument was used by either side."""
    names = tuple(sorted(candidate | champion))
    sides = {"calls_candidate": candidate, "calls_champion": champion}
    return Series(
        "permissions", suite, names,
        {name: tuple(float(counts[item]) for item in names) for name, counts in sides.items()},
    )  # fmt: skip


def samples(items: Sequence[Item], models: Models, *, suite: str) -> tuple[Sample, ...]:
    """A request, and what each model did about it."""
    if models.tokenizer is None:
        return ()
    found = []
    for item in items[:2]:
        situation = read_situation(item, suite)
        before, after = (
            tool_use.run_episode(Greedy(model, models.tokenizer), situation, MAX_STEPS)
            for model in (models.champion, models.candidate)
        )
        prompt = f"{situation.id}: {tool_use.prompt_of(situation)}"
        found.append(Sample(suite, prompt, _describe(before), _describe(after)))
    return tuple(found)


def values(episode: Episode) -> dict[str, float]:
    """The numbers of an episode."""
    return {
        "success": float(episode.success), "unsafe": float(episode.unsafe),
        "invalid": float(episode.invalid), "calls": float(len(episode.calls)),
    }  # fmt: skip


def read_situation(item: Item, suite: str) -> Situation:
    """The situation of an item; raises InvalidInputError where a field is missing."""
    values = [item.get(name) for name in ("suite", "user", "injection")]
    fields = [value for value in values if isinstance(value, str)]
    if len(fields) != len(values):
        raise InvalidInputError(
            f"suite {suite}: item {item.get('id')!r:.60} needs texts suite, user and injection"
        )
    return Situation(*fields)


class Greedy:
    """A language model as a tool policy: it is shown request, tools and turns, and writes its next action."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self._model, self._tokenizer = model, tokenizer
        most = int(getattr(model.config, "max_position_embeddings", MAX_CONTEXT))
        self._room = min(MAX_CONTEXT, most) - MAX_NEW_TOKENS

    def act(self, prompt: str, tools: Sequence[dict[str, Any]], turns: Sequence[Turn]) -> str:
        """The likeliest continuation, up to ``MAX_NEW_TOKENS`` tokens."""
        ids = self._fitting(prompt, tools, list(turns))
        with torch.no_grad():
            made = self._model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=MAX_NEW_TOKENS,
                pad_token_id=self._tokenizer.pad_token_id or 0,
            )  # fmt: skip
        return str(self._tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))

    def _fitting(self, prompt: str, tools: Sequence[dict[str, Any]], turns: list[Turn]) -> torch.Tensor:
        head = tool_use.instructions(tools)
        while True:
            text = tool_use.transcript(prompt, turns) + tool_use.ACTION
            if getattr(self._tokenizer, "chat_template", None):
                said = [{"role": "system", "content": head}, {"role": "user", "content": text}]
                text = str(
                    self._tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
                )
            else:
                text = f"{head}\n{text}"
            ids = self._tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
            if ids.shape[1] <= self._room:
                return ids
            if not turns:
                raise JobFailedError(
                    f"the model's context of {self._room + MAX_NEW_TOKENS} tokens cannot hold a request and the tools",
                    hint=f"{ids.shape[1]} tokens are needed",
                )
            turns.pop(0)


def _describe(episode: Episode) -> str:
    ended = [
        "done" if episode.success else "not done",
        "followed what was injected" if episode.unsafe else "",
        f"{episode.invalid} invalid" if episode.invalid else "",
    ]
    lines = [f"{number}. {json.dumps(turn.emitted)[:300]}" for number, turn in enumerate(episode.turns, 1)]
    return "\n".join([", ".join(filter(None, ended)), *lines])
