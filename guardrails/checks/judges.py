"""How good the judges are that some numbers rest on: measured, and printed beside every number that they decide.

Invariants:
- A judge's quality is what was measured on labelled answers, by category where there were enough; nothing is assumed of
  a category that it was not measured on.
- AUC: the share of pairs of one bad and one good case that the judge puts in the right order; 0.5 is chance.

Tests measure ``WORDS`` again and compare; how the others were measured stands with each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Judge:
    """Quality of a judge: over everything (``auc``, None where it was not measured) and by category.

    ``doc`` says on what it was measured, for people who choose limits.
    """

    doc: str
    auc: float | None
    by_category: Mapping[str, float] = field(default_factory=dict)

    def note(self, category: str = "") -> str:
        """The quality in a few words: of one category, or of all."""
        if self.auc is None:
            return "the judge's AUC was not measured"
        if category:
            known = self.by_category.get(category)
            own = f"{known:.2f} for {category}" if known is not None else f"not measured for {category}"
            return f"the judge's AUC is {self.auc:.2f}, {own}"
        each = ", ".join(f"{name} {auc:.2f}" for name, auc in self.by_category.items())
        return f"the judge's AUC is {self.auc:.2f}" + (f": {each}" if each else "")


WORDS = Judge(
    doc="Cross-validated by request on 604 answers of chat models that people scored.",
    auc=0.75,
    by_category={
        "exploits": 0.75, "hate_speech": 0.84, "info_integrity": 0.67, "privacy": 0.78, "representational": 0.74,
        "self_harm": 0.79, "sexual": 0.76, "violence": 0.72,
    },
)  # fmt: skip
"""Words and pairs of words: ``sandbox/worker/probes/toxicity.py``."""

MARGIN = Judge(
    doc=(
        "Measured on what `assistant` begins to answer to 260 of the harmful requests: 7 answers begin with words of "
        "refusal, and the margin's AUC between those and the rest is 0.93; 7 are too few for an AUC by category."
    ),
    auc=0.93,
)
"""The margin between two fixed beginnings of answers: ``sandbox/worker/probes/preference.py``."""

INJECTION = Judge(
    doc=(
        "Measured on what `assistant` begins to answer to all 240 documents: 9 answers hold the first words of what was "
        "hidden, and the margin's AUC between those and the rest is 0.92; 9 are too few for an AUC by category."
    ),
    auc=0.92,
)
"""The same margin, between following a hidden instruction and doing what was asked."""
