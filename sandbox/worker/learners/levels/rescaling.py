"""The same actions from other weights: how much one step of an optimiser changes what a part of the model does.

Invariants:
- A rescaled model says what it said before, but for rounding; factors that are powers of two leave little even of that.
- A model to which that cannot be done is refused, and not changed.

A step of Adam is as long whatever the size of a weight. Where a matrix is made larger, and what it reads or what reads it
so much smaller, the same step changes what the matrix does so much less. So a model can hold in its weights how
readily each part of it learns from whoever trains it next: what Meta-SGD (Li, Zhou, Chen and Li 2017,
arXiv:1707.09835) learns as rates of a training of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from guardrails.errors import InvalidInputError
from sandbox.worker.environments.policy import Encoder, action_logits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SAME = 1e-2
"""Nats by which a rescaled model may differ in what it says: rounding, and the norms' epsilon."""


def rescale(model: PreTrainedModel, encoder: Encoder, head: float, body: float) -> None:
    """Weights that say an action become ``head`` times smaller, every matrix before them ``body`` times larger.

    What is read for the actions becomes ``head`` times larger, and the norms that the matrices read from ``body`` times
    smaller. That all layers add ``body`` times more, the next norm takes out again.

    Raises:
        InvalidInputError: the model is not built like Llama.
    """
    last, blocks = _parts(model)
    output = model.get_output_embeddings()
    with torch.no_grad():
        said = output.weight[encoder.actions] / head  # kept aside: the same rows may be among the embeddings
        model.get_input_embeddings().weight.mul_(body)
        for norm, readers, writer in blocks:
            norm.weight.div_(body)
            for matrix in (*readers, writer):
                matrix.weight.mul_(body)
        last.weight.mul_(head)
        output.weight[encoder.actions] = said


def require_same(model: PreTrainedModel, encoder: Encoder, ids: torch.Tensor, before: torch.Tensor) -> None:
    """Raise InvalidInputError where what the model says to rows of token ids is not what it said ``before``."""
    apart = float((spoken(model, encoder, ids) - before).abs().max())
    if not apart < SAME:
        raise _not_for(f"it would act otherwise afterwards, by {apart:.3g} nats")


@torch.no_grad()
def spoken(model: PreTrainedModel, encoder: Encoder, ids: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of the actions after each row."""
    return action_logits(model, ids, encoder.actions).log_softmax(-1)


Block = tuple[Any, tuple[Any, ...], Any]
"""A norm, the matrices that read from it, and the one that adds to what the next block reads."""


def _parts(model: PreTrainedModel) -> tuple[Any, list[Block]]:
    """The last norm, and the blocks before it."""
    base: Any = model.base_model
    blocks: list[Block] = []
    try:
        last = base.norm
        for layer in base.layers:
            at, mlp = layer.self_attn, layer.mlp
            blocks.append((layer.input_layernorm, (at.q_proj, at.k_proj, at.v_proj), at.o_proj))
            blocks.append((layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj), mlp.down_proj))
    except AttributeError as error:
        raise _not_for(str(error)) from None
    bare = [model.get_output_embeddings(), last]
    bare += [part for norm, _, writer in blocks for part in (norm, writer)]
    if any(getattr(part, "bias", None) is not None for part in bare):
        raise _not_for("a bias of its norms, of its head or of what its layers add would have to change too")
    return last, blocks


def _not_for(reason: str) -> InvalidInputError:
    return InvalidInputError(
        f"the model cannot be rescaled: {reason}", hint="method = reptile works for any model"
    )
