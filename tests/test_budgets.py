"""Budgets of a week: what seven days may hold, beside what a day may."""

import pytest
from fakes import MODEL

from guardrails.errors import DeniedError, JobFailedError


def test_a_week_holds_less_than_seven_days(make):
    site = make(budgets="{proposals: {perDay: 1, perWeek: 2}}")
    for _ in range(2):
        site.gate.require_ready(MODEL)
        site.gate.record_failure(MODEL, "propose", "x", JobFailedError("broken"))
        with pytest.raises(DeniedError, match="last 24 hours: 1 of 1"):
            site.gate.require_ready(MODEL)
        site.clock.pass_(hours=25)
    with pytest.raises(DeniedError, match="last 7 days: 2 of 2"):
        site.gate.require_ready(MODEL)
    site.clock.pass_(days=7, hours=-50)
    site.gate.require_ready(MODEL)  # the first of them is seven days old


def test_cpu_hours_of_a_week(make):
    site = make(budgets="{compute: {cpuHoursPerWeek: 1}}")
    site.hand_in(site.gate.begin_measurement(site.propose()), cpu_s=3590)
    site.clock.pass_(days=3)
    site.gate.require_ready(MODEL)
    site.hand_in(site.gate.begin_measurement(site.propose()), cpu_s=10)
    site.clock.pass_(days=3)
    with pytest.raises(DeniedError, match="CPU hours in the last 7 days"):
        site.gate.require_ready(MODEL)
    site.clock.pass_(days=1)
    site.gate.require_ready(MODEL)
