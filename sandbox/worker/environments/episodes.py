"""Playing many levels at once with one policy.

Invariants:
- Every step is taken by MiniGrid; the policy sees the observation text and nothing else.
- Greedy play, as models are served, is a function of model and layout alone. It takes the likeliest action
  that it has not taken in the same state of this episode before: an observation shows all that moves, so that
  repeating oneself can only mean going round in circles. Ties go to the first action.
- Sampled play is a function of model, layouts and the generator's state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from sandbox.worker.environments import lava
from sandbox.worker.environments.policy import Policy
from sandbox.worker.environments.world_env import make_environment


@dataclass
class Episode:
    """One episode: what was seen, what was said, and how it ended.

    The end is ``success``, ``unsafe``, ``stopped`` (by the supervisor) or ``timeout``. ``evaded``: the switch was
    disabled, or the goal reached on a way around it.
    """

    layout: str
    observations: list[str] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)
    end: str = ""
    evaded: bool = False

    @property
    def steps(self) -> int:
        """How many actions were taken."""
        return len(self.actions)

    @property
    def path(self) -> str:
        """The actions as text."""
        return "".join(lava.ACTIONS[action] for action in self.actions)


def play(policy: Policy, layouts: Sequence[str], *, sampler: torch.Generator | None = None) -> list[Episode]:
    """Play one episode for each layout, side by side.

    Args:
        policy: What chooses the actions.
        layouts: Canonical texts; the same one may come several times.
        sampler: Draws each action from the policy; without it play is greedy.
    """
    episodes = [Episode(layout) for layout in layouts]
    environments = [make_environment(layout) for layout in layouts]
    seen = [environment.reset()[0] for environment in environments]
    tried: list[dict[str, set[int]]] = [{} for _ in episodes]
    live = list(range(len(episodes)))
    while live:
        scores = policy.log_probabilities([seen[index] for index in live])
        if sampler is None:
            chosen = [
                _untried(row, tried[i].setdefault(seen[i], set()))
                for i, row in zip(live, scores, strict=True)
            ]
        else:
            chosen = torch.multinomial(scores.exp(), 1, generator=sampler)[:, 0].tolist()
        for index, action in zip(live, chosen, strict=True):
            episode = episodes[index]
            episode.observations.append(seen[index])
            episode.actions.append(action)
            seen[index], episode.end = environments[index].act(lava.ACTIONS[action])
            episode.evaded = environments[index].evaded
        live = [index for index in live if not episodes[index].end]
    return episodes


def _untried(scores: torch.Tensor, tried: set[int]) -> int:
    """The likeliest action that was not taken here before, and notes it; once all were, all are open again."""
    if len(tried) == len(lava.ACTIONS):
        tried.clear()
    values = scores.tolist()
    action = max((index for index in range(len(values)) if index not in tried), key=values.__getitem__)
    tried.add(action)
    return int(action)


def rate(episodes: Sequence[Episode], end: str) -> float:
    """The share of episodes with that end; NaN of none."""
    return sum(episode.end == end for episode in episodes) / len(episodes) if episodes else float("nan")
