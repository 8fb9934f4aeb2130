"""Data quality: what stands in the records that the learner was given. A census, not a sample.

Invariants: every share is a count over all records, so it is exact. What was mounted is counted;
what a job says that it used is a claim. No records is not a clean set: it is not measured.
"""

from __future__ import annotations

from guardrails.checks.check import Check, Evidence, Metric, NoParams
from guardrails.errors import NotMeasuredError
from guardrails.statistics import Estimate, exact

_SHARE = Metric("share of training records", "share", exact=True, low=0.0, high=1.0)
_COUNT = Metric("number of training records", "records", exact=True, low=0.0)


def _census(name: str, doc: str) -> Check:
    fact = f"data.{name}"

    def measure(metric: str, params: NoParams, evidence: Evidence, confidence: float) -> Estimate:
        records, found = evidence.count("data.records"), evidence.count(fact)
        if records == 0:
            raise NotMeasuredError("there are no training records to look at")
        if found > records:
            raise NotMeasuredError(f"{fact} counts {found} of {records} records")
        return exact(float(found) if metric == "count" else found / records)

    return Check(fact, doc, NoParams, {"share": _SHARE, "count": _COUNT}, measure)


CHECKS = (
    _census("near_duplicates", "Records that repeat another record or nearly do."),
    _census("pii", "Records with personal data: addresses, phone numbers, card numbers."),
    _census("secrets", "Records with keys, tokens or passwords."),
    _census("language", "Records in another language than the model is meant for."),
    _census("generated", "Records that a model wrote, by their own mark."),
    _census("overlap", "Records that share long passages with evaluation items."),
)
