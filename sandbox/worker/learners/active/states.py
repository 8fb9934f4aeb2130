"""Active learning for action models: ask people what to do in the states that the model is least sure of.

Invariants:
- Asked is only about states that the model itself comes into when it plays the training levels (DAgger, Ross, Gordon
  and Bagnell 2011, arXiv:1011.0686), at most one of a level in one batch, none that was asked before.
- Trained is on all answers that were given, and on what the champion itself would do elsewhere, so that a few answers
  do not cost what it knew. A question that people skipped is not trained on.
- With ``form = head`` no weight changes but those that say an action: a few answers are few, and teach them what to
  say in what the champion sees already. An action is then nothing that the model could also see (tied embeddings).
- Two runs with the same champion, levels, answers, recipe and seed write the same bytes.

Without a new answer the learner only asks. With one it trains, proposes, and asks on with the model that it has made.
``query = random`` asks about visited states at random: to see what the choice of states is worth at equal labels.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from guardrails.errors import InvalidInputError, JobFailedError
from sandbox.worker.environments import lava, world
from sandbox.worker.environments.episodes import play
from sandbox.worker.environments.policy import Encoder, Policy, action_logits
from sandbox.worker.learners import Order, loss_claims, recipes
from sandbox.worker.learners.levels import Record, load_champion, read_records, save, steps_of
from sandbox.worker.learners.levels.imitation import MAX_NORM, examples
from sandbox.worker.learners.settings import read_recipe
from sandbox.worker.questions import (
    PERSON,
    Answer,
    Question,
    question_id,
    read_answers,
    write_questions,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def learn(order: Order) -> dict[str, str]:
    """Train on what people answered, and ask what is least sure; returns what the run claims about itself."""
    recipe = read_recipe(order.recipe, recipes.ASKING_STATES)
    records = read_records(order.data)
    answers = read_answers(order.data)
    fresh = [answer for answer in answers if answer.fresh and not answer.skipped]
    order.report(0.0, "loading", levels=len(records), answers=len(answers))
    champion, encoder = load_champion(order)
    levels = _levels(records, recipe["levels"], order.seed)
    claims: dict[str, str] = {}
    model = champion
    if fresh:
        given = [answer for answer in answers if not answer.skipped]
        model = copy.deepcopy(champion)
        losses = _train(order, model, champion, encoder, given, levels, recipe)
        claims = loss_claims(losses, len(given))
    asked = _ask(order, model, encoder, levels, answers, recipe)
    if not fresh and not asked:
        raise InvalidInputError(
            "there is nothing left to ask, and no new answer to learn from", hint="raise budget in the recipe"
        )
    if fresh:
        save(order, model, [_record(answer) for answer in answers if not answer.skipped])
    return claims


def _levels(records: Sequence[Record], count: int, seed: int) -> list[str]:
    texts = sorted({record.layout for record in records})
    draw = random.Random(f"levels:{seed}")  # noqa: S311 - a reproducible draw, not a secret
    return draw.sample(texts, min(count, len(texts)))


def _record(answer: Answer) -> dict[str, str]:
    return {"id": answer.id, "layout": answer.layout, "actions": answer.answer, "origin": PERSON}


# --- asking --------------------------------------------------------------------------------


def _ask(
    order: Order,
    model: PreTrainedModel,
    encoder: Encoder,
    levels: Sequence[str],
    answers: Sequence[Answer],
    recipe: dict[str, Any],
) -> int:
    """Write the next questions; returns how many there are."""
    count = min(recipe["labels"], recipe["budget"] - len(answers))
    if count <= 0:
        return 0
    questions = _questions(model, encoder, levels, recipe["query"], order.seed)
    known = {answer.id for answer in answers}
    new = [question for question in questions if question.id not in known][:count]
    return write_questions(order.out, new) if new else 0


def _questions(
    model: PreTrainedModel, encoder: Encoder, levels: Sequence[str], query: str, seed: int
) -> list[Question]:
    """Of each level the state to ask about, those first that are to be asked first."""
    draw = random.Random(f"ask:{seed}")  # noqa: S311 - a reproducible draw, not a secret
    policy = Policy(model.eval(), encoder)
    chosen: list[tuple[float, Question]] = []
    for episode in play(policy, list(levels)):
        wiring = episode.layout.partition(world.WIRED)[2]
        states = list(dict.fromkeys(episode.observations))
        doubt = [_entropy(row) for row in policy.log_probabilities(states)]
        at = (
            draw.randrange(len(states))
            if query == "random"
            else max(range(len(states)), key=doubt.__getitem__)
        )
        rank = draw.random() if query == "random" else doubt[at]
        chosen.append((rank, _question(states[at], wiring, doubt[at])))
    distinct = {question.id: (rank, question) for rank, question in chosen}
    return [question for _, question in sorted(distinct.values(), key=lambda pair: (-pair[0], pair[1].id))]


def _entropy(row: torch.Tensor) -> float:
    """0: sure; 1: each action as likely as another."""
    return min(1.0, max(0.0, float(-(row.double().exp() * row.double()).sum() / math.log(len(row)))))


def _question(observation: str, wiring: str, doubt: float) -> Question:
    """What people are shown: the level as it stands. It is a level of its own, begun in that state."""
    level = observation.partition(" ")[0] + (world.WIRED + wiring if wiring else "")
    rows = world.rows_of(level)
    signs = {world.THERE: "the supervisor is there", world.AWAY: "the supervisor is away"}
    watched = signs.get(world.parse_level(level).presence, "")
    prompt = "\n".join([*rows.split("/"), *([watched] if watched else [])])
    return Question(
        id=question_id(level, lava.ACTIONS), kind="action", prompt=prompt, options=lava.ACTIONS, layout=level,
        why="the model is least sure here" if doubt > 0 else "a state that the model comes into",
        uncertainty=round(doubt, 4),
    )  # fmt: skip


# --- learning ------------------------------------------------------------------------------


def _train(
    order: Order,
    model: PreTrainedModel,
    champion: PreTrainedModel,
    encoder: Encoder,
    answers: Sequence[Answer],
    levels: Sequence[str],
    recipe: dict[str, Any],
) -> list[float]:
    """Say what people said, in all eight forms of each state, and elsewhere what the champion would."""
    said = [
        step
        for answer in answers
        for form in range(lava.FORMS)
        for step in steps_of(Record(_level_of(answer), _action_of(answer), "", {}), form)
    ]
    known = examples(encoder, said)
    teacher = Policy(champion.eval(), encoder)
    asked = {seen for seen, _ in said}
    visited = dict.fromkeys(seen for episode in play(teacher, list(levels)) for seen in episode.observations)
    states = [seen for seen in visited if seen not in asked]
    ids, wanted = encoder.encode(states), teacher.log_probabilities(states).exp()
    trained, scores_of, keep_head = _learnt(model, encoder, torch.cat([known.ids, ids]), recipe["form"])
    draw = torch.Generator().manual_seed(order.seed)
    optimizer = torch.optim.AdamW(trained, lr=recipe["lr"], weight_decay=0.0)
    losses, total = [], recipe["updates"]
    for step in range(total):
        for group in optimizer.param_groups:
            group["lr"] = recipe["lr"] * min((step + 1) / max(1.0, total / 20), 1 - step / total)
        rows = torch.randint(len(known), (recipe["batch"],), generator=draw)
        others = torch.randint(len(states), (recipe["batch"],), generator=draw)
        scores = scores_of(torch.cat([rows, len(known) + others])).log_softmax(-1)
        mine, kept = scores.split(recipe["batch"])
        learnt = torch.nn.functional.nll_loss(mine, known.said[rows].to(mine.device))
        loss = learnt - recipe["keep"] * (wanted[others].to(kept.device) * kept).sum(1).mean()
        if not torch.isfinite(loss):
            raise JobFailedError(f"the loss became {loss.item()}", hint="try a lower lr in the recipe")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, MAX_NORM)
        optimizer.step()
        losses.append(learnt.item())
        order.report((step + 1) / total, "training", step=step + 1, loss=round(losses[-1], 4))
    keep_head()
    return losses


def _learnt(
    model: PreTrainedModel, encoder: Encoder, ids: torch.Tensor, form: str
) -> tuple[list[torch.Tensor], Callable[[torch.Tensor], torch.Tensor], Callable[[], None]]:
    """The weights that learn, the actions' scores of rows of ``ids``, and what writes the weights back.

    A head is three rows of weights upon what the model makes of a state: that is computed once for all updates.
    """
    if form == "full":
        return (
            list(model.parameters()),
            lambda rows: action_logits(model, ids[rows], encoder.actions),
            lambda: None,
        )
    output = model.get_output_embeddings()
    made: list[torch.Tensor] = []
    hook = output.register_forward_pre_hook(lambda module, given: made.append(given[0][:, -1].detach()))
    with torch.no_grad():
        for chunk in ids.split(512):
            action_logits(model, chunk, encoder.actions)
    hook.remove()
    states = torch.cat(made)
    head = output.weight[encoder.actions].detach().clone().requires_grad_(True)

    def write() -> None:
        with torch.no_grad():
            output.weight[encoder.actions] = head

    return [head], lambda rows: states[rows] @ head.T, write


def _level_of(answer: Answer) -> str:
    if not answer.layout:
        raise InvalidInputError(f"answer {answer.id:.64}: it does not say in which state")
    world.parse_level(answer.layout)
    return answer.layout


def _action_of(answer: Answer) -> str:
    if answer.answer not in lava.ACTIONS:
        raise InvalidInputError(
            f"answer {answer.id:.64}: {answer.answer!r:.20} is none of {', '.join(lava.ACTIONS)}"
        )
    return answer.answer
