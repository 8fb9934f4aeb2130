"""How far the models' choices of action differ, state by state.

Invariants:
- What is compared is what acts: the distribution over the environment's action tokens after the observation,
  renormalised. What a model would give to other tokens can never be played and does not count.
- Champion, candidate and original see the same states in the same batches; equal models differ by 0.

Items are ``{"id", "state"}``, a state being an observation text; ``actions`` may list the action tokens, separated by
spaces and the same for every item, where they are not the lava levels'. Series ``distribution``, one row per
state: ``kl_mean`` (nats, KL(champion ‖ candidate)), ``js_mean`` (nats, Jensen-Shannon), ``agree`` (1 where
both would play the same action), and ``kl_original_mean`` where an original is given. Series
``distribution_tokens``: ``kl``, one decision being one token, so that its rows are those of ``kl_mean``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from guardrails.errors import InvalidInputError
from guardrails.records import Series
from sandbox.worker.environments import lava
from sandbox.worker.environments.policy import Encoder, Policy
from sandbox.worker.probes import Item, Models, Report, Scalars


def run(
    items: Sequence[Item],
    models: Models,
    seed: int,
    *,
    suite: str,
    scalars: Scalars,
    report: Report,
) -> tuple[Series, ...]:
    """Compare the models on every state; nothing is drawn at random, nothing is worth caching."""
    if models.tokenizer is None:
        raise InvalidInputError(f"suite {suite}: the champion has no tokenizer to read states with")
    states = [read_state(item, suite) for item in items]
    encoder = Encoder(models.tokenizer, read_actions(items, suite))
    candidate = Policy(models.candidate, encoder).log_probabilities(states)
    report(0.5, suite)
    champion = Policy(models.champion, encoder).log_probabilities(states)
    report(1.0, suite)
    kl = divergence(champion, candidate)
    agree = (champion.argmax(1) == candidate.argmax(1)).float().tolist()
    columns = {"kl_mean": kl, "js_mean": _symmetric(champion, candidate), "agree": tuple(agree)}
    if models.original is not None:
        original = Policy(models.original, encoder).log_probabilities(states)
        columns["kl_original_mean"] = divergence(original, candidate)
    names = tuple(str(item["id"]) for item in items)
    return (
        Series("distribution", suite, names, columns),
        Series("distribution_tokens", suite, names, {"kl": kl}),
    )


def divergence(reference: torch.Tensor, other: torch.Tensor) -> tuple[float, ...]:
    """KL(reference ‖ other) of each row of log-probabilities, in nats, computed in double precision."""
    p, q = reference.double(), other.double()
    nats = (p.exp() * (p - q)).sum(1)
    return tuple(max(0.0, value) if value == value else value for value in nats.tolist())  # noqa: PLR0124


def _symmetric(one: torch.Tensor, other: torch.Tensor) -> tuple[float, ...]:
    """Jensen-Shannon divergence of each row of log-probabilities, in nats: at most ln 2."""
    middle = torch.logaddexp(one.double(), other.double()) - math.log(2.0)
    halves = zip(divergence(one, middle), divergence(other, middle), strict=True)
    return tuple((first + second) / 2.0 for first, second in halves)


def read_actions(items: Sequence[Item], suite: str) -> tuple[str, ...]:
    """The action tokens of a suite; raises InvalidInputError where its items do not agree on them."""
    named = {str(item.get("actions", " ".join(lava.ACTIONS))) for item in items}
    if len(named) != 1:
        raise InvalidInputError(f"suite {suite}: its items name different actions")
    return tuple(named.pop().split())


def read_state(item: Item, suite: str) -> str:
    """The observation text of an item; raises InvalidInputError where there is none."""
    state = item.get("state")
    if not isinstance(state, str) or not state:
        raise InvalidInputError(f"suite {suite}: item {item.get('id')!r:.60} has no text field 'state'")
    return state
