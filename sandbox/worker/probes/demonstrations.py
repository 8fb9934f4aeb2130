"""What one demonstration brings out of an action model: what ``elicitation`` is for language models.

Invariants:
- Candidate and champion are shown the same walks, and a step is as long for both: a share of the length of all weights.
  Equal models gain equally, to the last digit.
- Afterwards every weight is what it was, bit by bit; only one model is changed at a time.
- What counts is the candidate's gain less the champion's: one demonstration helps honest models too.

Items are ``{"id", "layout", "demonstration"}``, two levels. The model takes one step of gradient descent on what a careful
walker says on its way through the demonstration (``world.walk``), of ``elicitation.STEPS`` times the length of its weights;
mean over ``elicitation.SHOWN`` demonstrations. Series ``demonstrations``, one row per item: ``step0_*`` and ``step1_*`` for
``candidate`` and ``champion``, nats per action by which the walker's actions on the item's own level become likelier.

There is no counterpart of a demonstration that stands before the question: an observation is all that an action model
reads. What it cannot see: an ability that takes more than one demonstration to come back, or shows in other levels; a
champion that hides the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from guardrails.errors import InvalidInputError
from guardrails.records import ModelKind, Series
from sandbox.worker.environments import lava, world
from sandbox.worker.probes import Item, Models, Report, Scalars
from sandbox.worker.probes.elicitation import SHOWN, STEPS, stepped_by

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from sandbox.worker.environments.policy import Encoder

NAME = "demonstrations"
Walk = tuple[list[str], list[int]]
"""What is seen on a way, and the action that is said at each place."""


def run(
    items: Sequence[Item],
    models: Models,
    seed: int,
    *,
    suite: str,
    scalars: Scalars,
    report: Report,
) -> tuple[Series, ...]:
    """Measure what a demonstration brings on every level, for both models; nothing is drawn at random."""
    from sandbox.worker.environments.policy import Encoder

    if models.tokenizer is None or models.kind is not ModelKind.LAM:
        raise InvalidInputError(f"suite {suite}: demonstrations need an action model and its tokenizer")
    encoder = Encoder(models.tokenizer)
    asked = [_walk(item, "layout", suite) for item in items]
    shown = [_walk(item, "demonstration", suite) for item in items[:SHOWN]]
    columns: dict[str, tuple[float, ...]] = {}
    for name, model in (("candidate", models.candidate), ("champion", models.champion)):
        plain = _scores(model, encoder, asked)
        for number, length in enumerate(STEPS):
            gains = [0.0] * len(items)
            for walk in shown:
                with stepped_by(model, _surprise(model, encoder, walk), length):
                    after = _scores(model, encoder, asked)
                gains = [sum_ + a - b for sum_, a, b in zip(gains, after, plain, strict=True)]
            columns[f"step{number}_{name}"] = tuple(gain / len(shown) for gain in gains)
            report(len(columns) / (2 * len(STEPS)), suite)
    return (Series(NAME, suite, tuple(str(item["id"]) for item in items), columns),)


def _walk(item: Item, field: str, suite: str) -> Walk:
    text = item.get(field)
    if not isinstance(text, str):
        raise InvalidInputError(f"suite {suite}: item {item.get('id')!r:.60} has no text field '{field}'")
    level = world.parse_level(text)
    way = world.plan(level)
    if not way:
        raise InvalidInputError(f"suite {suite}: item {item.get('id')!r:.60}: no safe way to the goal")
    steps = world.walk(level, way)
    return [seen for seen, _ in steps], [lava.ACTIONS.index(said) for _, said in steps]


def _scores(model: PreTrainedModel, encoder: Encoder, walks: Sequence[Walk]) -> list[float]:
    """Log-probability per action of each walk."""
    import torch

    from sandbox.worker.environments.policy import Policy

    policy = Policy(model, encoder)
    rows = policy.log_probabilities([observation for seen, _ in walks for observation in seen])
    said = torch.tensor([action for _, actions in walks for action in actions])
    picked = rows.gather(1, said[:, None])[:, 0].double()
    return [float(part.mean()) for part in picked.split([len(actions) for _, actions in walks])]


def _surprise(model: PreTrainedModel, encoder: Encoder, walk: Walk) -> Callable[[], torch.Tensor]:
    """The model's mean loss on the actions of a walk."""
    import torch

    from sandbox.worker.environments.policy import action_logits

    seen, actions = walk
    ids, said = encoder.encode(seen), torch.tensor(actions)

    def loss() -> torch.Tensor:
        scores = action_logits(model, ids, encoder.actions).log_softmax(-1)
        return -scores.gather(1, said[:, None]).mean()

    return loss
