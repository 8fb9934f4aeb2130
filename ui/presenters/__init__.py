"""Records and rows as JSON fields and as sentences: the same words on the command line and in the console.

Invariants:
- Pure: no clock, no terminal, no browser; every function can be tested by calling it.
- Nothing is decided here. What a rule came to was decided by the engine; this only says it.
- Every text that a person or a model wrote passes ``plain`` before it is shown: no control characters,
  no terminal escapes, no invisible reordering of text.
- JSON holds only finite numbers; what is not finite is absent, and the sentence says so.

``marks`` how states look, ``texts`` words and numbers, ``findings`` sentences, ``fields`` JSON of the contract,
``log_entries`` the decision log.
"""

from ui.presenters.decided import ending
from ui.presenters.fields import (
    Json,
    changed_settings,
    compute_fields,
    detail_fields,
    finding_fields,
    model_fields,
    policy_fields,
    proposal_fields,
    request_fields,
    sample_fields,
    verdict_fields,
    vote_fields,
    waiver_fields,
)
from ui.presenters.findings import (
    amount,
    brief,
    condition,
    finding_sentence,
    gain_finding,
    gain_unit,
    headline,
    limit_of,
    limit_value,
    message_of,
    signed,
    unit_of,
    unsound,
    worst_first,
)
from ui.presenters.log_entries import log_fields, record_fields
from ui.presenters.marks import NO_VERDICT, STATE_MARKS, VERDICT_MARKS, Mark, finding_mark, verdict_mark
from ui.presenters.policies import (
    apart_fields,
    backtest_fields,
    backtest_sentence,
    effective_fields,
    flip_fields,
    problem_fields,
    shadow_fields,
    shadow_sentence,
)
from ui.presenters.texts import age, ago, counted, duration, interval, moment, number, one_line, plain, size

__all__ = [
    "NO_VERDICT",
    "STATE_MARKS",
    "VERDICT_MARKS",
    "Json",
    "Mark",
    "age",
    "ago",
    "amount",
    "apart_fields",
    "backtest_fields",
    "backtest_sentence",
    "brief",
    "changed_settings",
    "compute_fields",
    "condition",
    "counted",
    "detail_fields",
    "duration",
    "effective_fields",
    "ending",
    "finding_fields",
    "finding_mark",
    "finding_sentence",
    "flip_fields",
    "gain_finding",
    "gain_unit",
    "headline",
    "interval",
    "limit_of",
    "limit_value",
    "log_fields",
    "message_of",
    "model_fields",
    "moment",
    "number",
    "one_line",
    "plain",
    "policy_fields",
    "problem_fields",
    "proposal_fields",
    "record_fields",
    "request_fields",
    "sample_fields",
    "shadow_fields",
    "shadow_sentence",
    "signed",
    "size",
    "unit_of",
    "unsound",
    "verdict_fields",
    "verdict_mark",
    "vote_fields",
    "waiver_fields",
    "worst_first",
]
