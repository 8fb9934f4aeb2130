"""Updates: AdamW whose rate rises, then falls to zero in a line, with clipped gradients.

Invariants: a loss that is not finite raises before it changes a weight; the same losses give the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from guardrails.errors import JobFailedError

if TYPE_CHECKING:
    import torch


class Updates:
    """Takes ``steps`` steps by the recipe's ``lr``, ``warmup``, ``weight_decay`` and ``clip``."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], recipe: Mapping[str, Any]) -> None:
        import torch

        self._parameters = list(parameters)
        self._recipe = recipe
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=recipe["lr"], weight_decay=recipe["weight_decay"]
        )
        self.taken = 0

    def step(self, loss: torch.Tensor) -> float:
        """One update downhill; returns the loss."""
        return self.step_of([loss])

    def step_of(self, parts: Iterable[torch.Tensor]) -> float:
        """One update down the sum of losses, which are made one after the other; returns the sum."""
        import torch

        steps = self._recipe["steps"]
        rising = max(1, round(steps * self._recipe["warmup"]))
        share = min((self.taken + 1) / rising, (steps - self.taken) / max(1, steps - rising))
        for group in self._optimizer.param_groups:
            group["lr"] = self._recipe["lr"] * min(1.0, share)
        self._optimizer.zero_grad(set_to_none=True)
        value = 0.0
        for loss in parts:
            value += loss.item()
            if not math.isfinite(value):
                raise JobFailedError(
                    f"the loss became {value} in step {self.taken + 1} of {steps}", hint="try a lower lr"
                )
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, self._recipe["clip"])
        self._optimizer.step()
        self.taken += 1
        return value

    def skip(self) -> None:
        """Count a step in which there was nothing to learn from."""
        self.taken += 1
