"""The checks that a policy can name, by name.

Invariants: names are unique; adding a check here is all that makes it known to the loader, to the
JSON Schema and to the engine.
"""

from guardrails.checks import (
    acting,
    compute,
    conduct,
    control,
    data_quality,
    drift,
    gain,
    harm,
    integrity,
    outputs,
    using_tools,
)
from guardrails.checks.check import Check, Metric

CHECKS: dict[str, Check] = {
    check.name: check
    for module in (
        drift,
        harm,
        acting,
        gain,
        data_quality,
        compute,
        control,
        conduct,
        outputs,
        using_tools,
        integrity,
    )
    for check in module.CHECKS
}

__all__ = ["CHECKS", "Check", "Metric"]
