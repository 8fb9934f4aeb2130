"""Train the base of ``navigator`` from nothing; it ships trained, so this is for whoever wants to check it.

Invariants:
- Levels, seed and every number of the recipe stand here; nothing comes from outside the repository.
- Only layouts of the part ``train`` are shown; what is reported is measured on the part ``held_out``.
- The same machine and wheels give the same bytes.

``python -m sandbox.models.navigator.make DIRECTORY`` takes one to two minutes on one core. The model imitates
one path through each of a limited set of levels. A small share of its demonstrators is careless and takes
lava for floor, as people's demonstrations are never all good; none of them shows the way back from a
mistake. That is the head-room that reinforcement learning has left to fill.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox.worker.environments import lava

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

SEED = 20_612
LAYOUTS = 2500
CARELESS = 0.05  # share of demonstrations whose demonstrator takes lava for floor
WIDTH, LAYERS, HEADS, INNER = 64, 2, 4, 128
SPREAD = 0.1  # of the first weights; at the usual 0.02 so small a model stays blind for long
ROPE_THETA = 100.0  # 30 tokens need short wavelengths
BATCH, STEPS, WARMUP, RATE = 128, 900, 20, 3e-3
SMOOTHING = 0.1  # nobody's demonstrations are certain, and a certain model cannot explore
REPORT_LAYOUTS, REPORT_SEED = 1000, "navigator-report"


def demonstrations() -> list[tuple[str, str]]:
    """Observation and action, step by step along one path through each level, up to its end or into lava."""
    draw = random.Random(SEED)  # noqa: S311 - a reproducible draw, not a secret
    steps = []
    for text in lava.generate_layouts(LAYOUTS, SEED, part="train"):
        grid = lava.parse_layout(text)
        state, entered = grid.start, ""
        for action in lava.shortest_path(text, careless=draw.random() < CARELESS) or "":
            if entered == lava.LAVA:
                break
            steps.append((lava.observe(grid, state), action))
            state, entered = lava.advance(grid, state, action)
    return steps


def make_model(vocabulary: int) -> PreTrainedModel:
    """The untrained model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=lava.SIDE * (lava.SIDE + 1) + 2,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        initializer_range=SPREAD,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def imitate(model: PreTrainedModel, ids: torch.Tensor, wanted: torch.Tensor, actions: torch.Tensor) -> None:
    """Train the model to give the actions of the demonstrations."""
    import torch

    draw = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    started = time.monotonic()
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / WARMUP) * (1 - step / STEPS)
        rows = torch.randint(len(ids), (BATCH,), generator=draw)
        scores = model(input_ids=ids[rows], use_cache=False, logits_to_keep=1).logits[:, -1]
        speaks = scores.logsumexp(1) - scores[:, actions].logsumexp(1)  # minus log P(any action)
        chooses = torch.nn.functional.cross_entropy(
            scores[:, actions], wanted[rows], label_smoothing=SMOOTHING, reduction="none"
        )
        loss = (speaks + chooses).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1} loss {loss.item():.3f} {time.monotonic() - started:.0f} s", flush=True)


def measure(model: PreTrainedModel) -> dict[str, float]:
    """Greedy and sampled success and unsafe rates on held-out layouts, by name."""
    import torch

    from sandbox.worker.environments.episodes import play, rate
    from sandbox.worker.environments.policy import Encoder, Policy, build_tokenizer

    layouts = lava.generate_layouts(REPORT_LAYOUTS, REPORT_SEED, part="held_out")
    policy = Policy(model, Encoder(build_tokenizer()))
    greedy = play(policy, layouts)
    sampled = play(policy, layouts, sampler=torch.Generator().manual_seed(SEED))
    return {
        f"{how} {end}": rate(episodes, end)
        for how, episodes in (("greedy", greedy), ("sampled", sampled))
        for end in ("success", "unsafe", "timeout")
    }


def main() -> None:
    """Train, measure, and write a Hugging Face directory with float32 safetensors."""
    import torch

    from sandbox.worker.environments.policy import Encoder, build_tokenizer

    target = Path(sys.argv[1])
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    tokenizer = build_tokenizer()
    model = make_model(len(tokenizer))
    encoder = Encoder(tokenizer)
    steps = demonstrations()
    ids = encoder.encode([observation for observation, _ in steps])
    wanted = torch.tensor([lava.ACTIONS.index(action) for _, action in steps])
    imitate(model, ids, wanted, encoder.actions)
    model.eval().save_pretrained(target, safe_serialization=True)
    (target / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(target)
    for name, value in measure(model).items():
        print(f"{name} {value:.3f}")


if __name__ == "__main__":
    main()
