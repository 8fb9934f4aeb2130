"""Train the base of ``player`` from nothing; it ships trained, so this is for whoever wants to check it.

Invariants:
- Games, seed and every number of the recipe stand here; nothing comes from outside the repository.
- Only openings of the part ``train`` are shown; what is reported is measured on the part ``held_out``.
- The same machine and wheels give the same bytes.

``python -m sandbox.models.player.make DIRECTORY`` takes about half a minute on one core. The model imitates games of
a weak teacher, who takes a win that is on the board, often overlooks the other's, and otherwise plays at random;
beside the move it learns who won. What it has not been shown is the head-room that self-play has left to fill.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox.worker.environments import connect_four as c4

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

SEED = 40_707
GAMES = 1500
LOOKS_AHEAD = 0.5  # share of moves at which the teacher stops the other's win too
WIDTH, LAYERS, HEADS, INNER = 64, 3, 4, 192
SPREAD = 0.1  # of the first weights; at the usual 0.02 so small a model stays blind for long
ROPE_THETA = 100.0  # eight tokens need short wavelengths
BATCH, STEPS, WARMUP, RATE = 128, 450, 20, 2e-3
REPORT_OPENINGS, REPORT_SEED = 200, "player-report"


def demonstrations() -> list[tuple[c4.Position, tuple[int, ...], float]]:
    """Position, the moves that the teacher holds for equally good, and the end for whoever is to move (-1 to 1)."""
    draw = random.Random(SEED)  # noqa: S311 - a reproducible draw, not a secret
    shown = []
    for opening in c4.draw_openings(GAMES, SEED, part="train"):
        position, game = c4.parse_moves(opening), []
        while not position.is_over:
            moves = c4.best_moves(position, 2 if draw.random() < LOOKS_AHEAD else 1)
            game.append((position, moves))
            position = position.play(draw.choice(moves))
        won = -1.0 if position.is_lost else 0.0
        for seen, moves in reversed(game):
            won = -won
            shown.append((seen, moves, won))
    return shown


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
        max_position_embeddings=c4.COLUMNS + 2,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        initializer_range=SPREAD,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def imitate(
    model: PreTrainedModel, ids: torch.Tensor, wanted: torch.Tensor, ends: torch.Tensor, speech: torch.Tensor
) -> None:
    """Train the model to give the teacher's moves and the ends of its games. ``speech``: columns, then + and -."""
    import torch

    draw = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    started = time.monotonic()
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / WARMUP) * (1 - step / STEPS)
        rows = torch.randint(len(ids), (BATCH,), generator=draw)
        scores = model(input_ids=ids[rows], use_cache=False, logits_to_keep=1).logits[:, -1]
        speaks = scores.logsumexp(1) - scores[:, speech[: c4.COLUMNS]].logsumexp(1)  # minus log P(any move)
        chooses = -(wanted[rows] * scores[:, speech[: c4.COLUMNS]].log_softmax(1)).sum(1)
        value = scores[:, speech[-2]] - scores[:, speech[-1]]
        foresees = torch.nn.functional.binary_cross_entropy_with_logits(
            value, (ends[rows] + 1) / 2, reduction="none"
        )
        loss = (speaks + chooses + foresees).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0:
            print(f"step {step + 1} loss {loss.item():.3f} {time.monotonic() - started:.0f} s", flush=True)


def measure(model: PreTrainedModel) -> dict[str, float]:
    """Mean scores of greedy play on held-out openings, from both sides, against fixed opponents, by name."""
    from sandbox.worker.environments.games import Minimax, Model, build_tokenizer, encoder_for, mean_score
    from sandbox.worker.environments.policy import Policy

    openings = c4.draw_openings(REPORT_OPENINGS, REPORT_SEED, part="held_out")
    player = Model(Policy(model, encoder_for(build_tokenizer())))
    names = {0: "random", 1: "minimax 1", 2: "minimax 2", 4: "minimax 4"}
    return {name: mean_score(player, Minimax(depth, SEED), openings) for depth, name in names.items()}


def main() -> None:
    """Train, measure, and write a Hugging Face directory with float32 safetensors."""
    import torch

    from sandbox.worker.environments.games import LOST, WON, build_tokenizer
    from sandbox.worker.environments.policy import Encoder

    target = Path(sys.argv[1])
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    tokenizer = build_tokenizer()
    model = make_model(len(tokenizer))
    encoder = Encoder(tokenizer, (*c4.ACTIONS, WON, LOST))
    shown = demonstrations()
    ids = encoder.encode([c4.observe(position) for position, _, _ in shown])
    wanted = torch.zeros(len(shown), c4.COLUMNS)
    for row, (_, moves, _) in enumerate(shown):
        wanted[row, list(moves)] = 1 / len(moves)
    imitate(model, ids, wanted, torch.tensor([end for _, _, end in shown]), encoder.actions)
    model.eval().save_pretrained(target, safe_serialization=True)
    (target / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(target)
    for name, value in measure(model).items():
        print(f"{name} {value:.3f}")


if __name__ == "__main__":
    main()
