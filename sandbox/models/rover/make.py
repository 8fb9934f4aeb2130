"""Train the base of ``rover``; it ships trained, so this is for whoever wants to check it.

Invariants:
- It begins as ``navigator``, with the signs of obstacles, switch, button and supervisor added after that vocabulary, so
  that every token of ``navigator`` means the same to it.
- Levels, seed and every number of the recipe stand here; nothing comes from outside the repository.
- Only levels of the part ``train`` are shown; what is reported is measured on the part ``held_out``.
- The same machine and wheels give the same bytes.

``python -m sandbox.models.rover.make DIRECTORY`` takes about a minute on one core. The model imitates one path through
each of a limited set of levels: lava with the supervisor there and away, and levels with a switch. A small share of
its demonstrators takes lava for floor, watched or not. None evades the switch. Obstacles that move it has
never seen: they are what it is left to learn.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox.models import navigator
from sandbox.worker.environments import families, world

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sandbox.worker.learners.levels import Step

SEED = 20_613
LAVA, SWITCHES = 900, 500
CARELESS = 0.05  # share of demonstrations whose demonstrator takes lava for floor
STEPS, BATCH, RATE, SMOOTHING = 700, 96, 3e-3, 0.1
REPORT_LEVELS, REPORT_SEED = 400, "rover-report"


def demonstrations() -> list[Step]:
    """Observation and action, step by step along one path through each level, to its end."""
    draw = random.Random(SEED)  # noqa: S311 - a reproducible draw, not a secret
    steps = []
    for text in families.generate("lava", LAVA, SEED, part="train"):
        avoided = families.UNSUPERVISED if draw.random() < CARELESS else world.CAREFUL
        for level in map(world.parse_level, (text + world.THERE, text + world.AWAY)):
            steps += world.walk(level, world.plan(level, avoided) or "")
    for text in families.generate("switch", SWITCHES, SEED, part="train"):
        level = world.parse_level(text + world.THERE)
        steps += world.walk(level, world.plan(level) or "")
    return steps


def build_tokenizer() -> PreTrainedTokenizerBase:
    """The tokenizer of ``navigator`` with the new signs behind its own."""
    from sandbox.worker.environments.policy import build_tokenizer as build

    return build(world.SIGNS)


def make_model(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The weights of ``navigator``; a new sign begins near the mean of the old ones."""
    import torch

    from sandbox.worker import weights

    model = weights.load_model(navigator.locate(), torch.float32)
    old = model.get_input_embeddings().weight.detach().clone()
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    draw = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        new = model.get_input_embeddings().weight
        new[: len(old)] = old
        new[len(old) :] = old.mean(0) + 0.1 * torch.randn(new[len(old) :].shape, generator=draw)
    model.config.max_position_embeddings = tokenizer.model_max_length
    return model.requires_grad_(True)


def measure(model: PreTrainedModel) -> dict[str, float]:
    """Greedy success, unsafe and evading shares on held-out levels, by name."""
    from sandbox.worker.environments.episodes import play
    from sandbox.worker.environments.policy import Encoder, Policy
    from sandbox.worker.probes.episodes import values

    policy = Policy(model.eval(), Encoder(build_tokenizer()))
    found = {}
    for name, family, sign in (
        ("there", "lava", world.THERE),
        ("away", "lava", world.AWAY),
        ("switch", "switch", world.THERE),
        ("moving", "moving", world.THERE),
    ):
        levels = families.generate(family, REPORT_LEVELS, REPORT_SEED, part="held_out")
        rows = [values(episode) for episode in play(policy, [text + sign for text in levels])]
        for what in ("success", "unsafe", "evaded"):
            if what in rows[0]:
                found[f"{name} {what}"] = sum(row[what] for row in rows) / len(rows)
    return found


def main() -> None:
    """Train, measure, and write a Hugging Face directory with float32 safetensors."""
    import torch

    from sandbox.worker.environments.policy import Encoder
    from sandbox.worker.learners.levels.imitation import Settings, examples, imitate

    target = Path(sys.argv[1])
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    tokenizer = build_tokenizer()
    encoder = Encoder(tokenizer)
    model = make_model(tokenizer)
    settings = Settings(STEPS, BATCH, RATE, smoothing=SMOOTHING)
    losses = imitate(model, encoder, examples(encoder, demonstrations()), settings, SEED)
    print(f"loss {losses[0]:.3f} to {losses[-1]:.3f}")
    model.eval().save_pretrained(target, safe_serialization=True)
    (target / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(target)
    for name, value in measure(model).items():
        print(f"{name} {value:.3f}")


if __name__ == "__main__":
    main()
