"""Self-supervised learning for action models: predict the next step of recordings that nobody judged.

Invariants:
- No reward and no label is used: nobody says which recording went well. Recordings are the records' ``actions``, by
  whomever; where no record has any, a walker that chooses at random records some here.
- Only levels in the task's records are walked in, and with ``replay`` plain levels of the part for learners.
- Two runs with the same champion, records, recipe and seed write the same bytes.

``predict = action`` learns what was said next, ``observation`` what was seen next, ``both`` both. ``aim = recorded`` takes
recordings as they are. ``aim = hindsight`` asks less of them: a stretch of any walk is what somebody does who wants to get
where it ends (Andrychowicz et al. 2017, arXiv:1707.01495; Ghosh et al. 2021, arXiv:1912.06088), so that with the
goal moved there its first action is the next step to predict. Loops are cut out of a stretch, and it ends before
anything unsafe. ``aim = auto`` is ``recorded`` where there are recordings.

``replay`` is the share of the predicted actions that are the champion's own, in the episodes that it plays in ``REPLAYED``
training levels of plain lava under plain controls: it keeps what nothing else in the update speaks for.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from guardrails.errors import InvalidInputError, JobFailedError
from sandbox.worker.environments import families, lava, world
from sandbox.worker.environments.episodes import play
from sandbox.worker.environments.policy import Encoder, Policy
from sandbox.worker.learners import Order, loss_claims, recipes
from sandbox.worker.learners.levels import Record, Step, load_champion, read_records, save, steps_of
from sandbox.worker.learners.levels.imitation import MAX_NORM, Examples, examples, loss_of
from sandbox.worker.learners.settings import read_recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

REPLAYED = 400
_FORWARD = 0.6  # how often the walker goes on rather than turns


def learn(order: Order) -> dict[str, str]:
    """Learn from recordings of the levels in ``order.data``; returns what the run claims about itself."""
    recipe = read_recipe(order.recipe, recipes.RECORDINGS)
    if recipe["replay"] and recipe["predict"] == "observation":
        raise InvalidInputError("recipe: replay is of actions: predict action, or both")
    records = read_records(order.data)
    order.report(0.0, "recording", levels=len(records))
    recordings = [record for record in records if record.actions]
    hindsight = recipe["aim"] == "hindsight" or (recipe["aim"] == "auto" and not recordings)
    recordings = recordings or list(_wander(records, recipe["walks"], recipe["length"], order.seed))
    model, encoder = load_champion(order)
    draw = random.Random(f"stretches:{order.seed}")  # noqa: S311 - a training order is no secret
    steps = [
        step
        for record in recordings
        for step in (
            _hindsight(record, recipe, draw) if hindsight else steps_of(record, draw.randrange(lava.FORMS))
        )
    ]
    if not steps:
        raise InvalidInputError("no recording gets anywhere: there is no next step to learn")
    own = examples(encoder, _own_steps(model, encoder)) if recipe["replay"] else None
    losses = _train(order, model, encoder, steps, own, _transitions(recordings), recipe)
    save(order, model, [record.value for record in recordings])
    return loss_claims(losses, len(recordings))


def _wander(records: Sequence[Record], walks: int, length: int, seed: int) -> Iterator[Record]:
    """Recordings of a walker that goes on or turns at random, and does not turn back at once."""
    draw = random.Random(f"walks:{seed}")  # noqa: S311 - reproducible, not a secret
    for record in records:
        for number in range(walks):
            actions = ""
            while len(actions) < length:
                turn = draw.choice("LR")
                back = actions[-1:] and {"L": "R", "R": "L"}.get(actions[-1]) == turn
                actions += "F" if back or draw.random() < _FORWARD else turn
            value = {"id": f"{record.value['id']}-{number}", "layout": record.layout, "actions": actions}
            yield Record(record.layout, actions, record.family, {**value, "origin": "generated"})


def _own_steps(model: PreTrainedModel, encoder: Encoder) -> list[Step]:
    """What the champion sees and says in plain lava levels that learners may see."""
    levels = families.generate("lava", REPLAYED, "replay", part="train")
    return [
        (seen, lava.ACTIONS[action])
        for episode in play(Policy(model, encoder), levels)
        for seen, action in zip(episode.observations, episode.actions, strict=True)
    ]


def _hindsight(record: Record, recipe: dict[str, Any], draw: random.Random) -> Iterator[Step]:
    """First steps of stretches of a recording, each in the level whose goal is where the stretch ended."""
    level = world.parse_level(record.layout)
    if level.start.movers:
        raise InvalidInputError(
            f"level {record.layout:.60}: where obstacles move, another goal is another course of things",
            hint="hindsight works in levels that stand still",
        )
    states, taken = _safe_walk(level, record.actions)
    stretches = [
        (begin, end)
        for begin in range(len(taken))
        for end in range(begin + 1, min(begin + recipe["reach"], len(taken)) + 1)
    ]
    draw.shuffle(stretches)
    for begin, end in stretches[: recipe["stretches"]]:
        first = _without_loops(states[begin : end + 1], taken[begin:end])
        aim = states[end].agent
        here = states[begin].agent
        if first is None or (aim.x, aim.y) == (here.x, here.y) or level.cell(aim.x, aim.y) != lava.FLOOR:
            continue
        yield world.observe(_aimed(level, aim), states[begin]), level.says(first)


def _safe_walk(level: world.Level, actions: str) -> tuple[list[world.Now], list[str]]:
    """States and actions done, until the walk is over or comes upon what is unsafe."""
    states, taken = [level.start], []
    for said in actions:
        done = level.does(said)
        now, event = world.advance(level, states[-1], done)
        if event in world.CAREFUL or world.ends(level, event):
            break
        states.append(now)
        taken.append(done)
    return states, taken


def _without_loops(states: Sequence[world.Now], taken: Sequence[str]) -> str | None:
    """The first action of a stretch after its loops are cut out; None where nothing is left."""
    last = max(at for at, state in enumerate(states) if state == states[0])
    # Whoever stands at the aim on the way there was there before: the rest of the stretch is no way to it.
    aim = (states[-1].agent.x, states[-1].agent.y)
    return taken[last] if last < len(taken) and (states[last].agent.x, states[last].agent.y) != aim else None


def _aimed(level: world.Level, aim: lava.State) -> world.Level:
    """The level with its goal moved."""
    rows = [row.replace(lava.GOAL, lava.FLOOR) for row in level.rows]
    rows[aim.y] = rows[aim.y][: aim.x] + lava.GOAL + rows[aim.y][aim.x + 1 :]
    return world.Level(level.text, tuple(rows), level.start, level.presence, level.wiring)


def _transitions(recordings: Sequence[Record]) -> list[tuple[str, str, str]]:
    """Observation, what was said, next observation: of every step of every recording."""
    found = []
    for record in recordings:
        level = world.parse_level(record.layout)
        now = level.start
        for said in record.actions:
            after, event = world.advance(level, now, level.does(said))
            found.append((world.observe(level, now), said, world.observe(level, after)))
            if event == "goal" or world.ends(level, event):
                break
            now = after
    return found


# --- training ------------------------------------------------------------------------------


def _train(
    order: Order,
    model: PreTrainedModel,
    encoder: Encoder,
    steps: Sequence[Step],
    own: Examples | None,
    transitions: Sequence[tuple[str, str, str]],
    recipe: dict[str, Any],
) -> list[float]:
    draw = torch.Generator().manual_seed(order.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe["lr"], weight_decay=0.0)
    known, total, losses = examples(encoder, steps), recipe["updates"], []
    replayed = round(recipe["batch"] * recipe["replay"]) if own is not None else 0
    passes = _passages(encoder, transitions) if recipe["predict"] != "action" else None
    for step in range(total):
        for group in optimizer.param_groups:
            group["lr"] = recipe["lr"] * min((step + 1) / max(1.0, total / 20), 1 - step / total)
        loss = torch.zeros(())
        if recipe["predict"] != "observation":
            drawn = _drawn(known, recipe["batch"] - replayed, draw)
            if own is not None:
                more = _drawn(own, replayed, draw)
                drawn = Examples(torch.cat([drawn.ids, more.ids]), torch.cat([drawn.said, more.said]))
            loss = loss + loss_of(model, drawn, encoder, 0.0)
        if passes is not None:
            rows = torch.randint(len(passes), (recipe["batch"] // 2 or 1,), generator=draw)
            loss = loss + _next_observation(model, passes[rows])
        if not torch.isfinite(loss):
            raise JobFailedError(f"the loss became {loss.item()}", hint="try a lower lr in the recipe")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        losses.append(loss.item())
        order.report((step + 1) / total, "training", step=step + 1, loss=round(losses[-1], 4))
    return losses


def _drawn(known: Examples, count: int, draw: torch.Generator) -> Examples:
    rows = torch.randint(len(known), (count,), generator=draw)
    return Examples(known.ids[rows], known.said[rows])


def _passages(encoder: Encoder, transitions: Sequence[tuple[str, str, str]]) -> torch.Tensor:
    """Rows of token ids: observation, action, next observation."""
    before = encoder.encode([seen for seen, _, _ in transitions])
    after = encoder.encode([seen for _, _, seen in transitions])
    said = encoder.actions[torch.tensor([lava.ACTIONS.index(action) for _, action, _ in transitions])]
    return torch.cat([before, said[:, None], after], dim=1)


def _next_observation(model: PreTrainedModel, rows: torch.Tensor) -> torch.Tensor:
    """Minus the mean log-probability of the next observation's tokens, given observation and action."""
    rows = rows.to(model.device)
    width = (rows.shape[1] - 1) // 2
    logits = model(input_ids=rows, use_cache=False).logits[:, width:-1]
    wanted = rows[:, width + 1 :]
    loss: torch.Tensor = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())
    return loss
