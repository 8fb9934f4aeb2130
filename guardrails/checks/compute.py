"""Compute: what making the proposal cost, as the supervisor measured it, beside what it should have cost.

Invariants:
- Readings come from the gate's own facts, never from the job that they are about.
- What did not run here cost nobody knows what: no CPU time is not measured, never cheap.
- Energy is an estimate and says so; limits belong on CPU seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from guardrails.canonical import decimal
from guardrails.checks.check import Check, Evidence, Metric, NoParams, SuiteParams
from guardrails.checks.gain import task_gain
from guardrails.errors import NotMeasuredError
from guardrails.records import Compute
from guardrails.statistics import Estimate, exact

PREFIX = "compute."
_TOKENS = "control.recipe.tokens"
_FLOPS_PER_WEIGHT = 6.0
_JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class TrainingParams:
    """Parameters of ``compute.training``.

    Attributes:
        flops_per_core_second: What one core does here in a second of training, measured on a known run.
    """

    flops_per_core_second: float


@dataclass(frozen=True)
class EnergyParams:
    """Parameters of ``compute.energy``.

    Attributes:
        watts_per_core: Power that one busy core draws, its share of memory and of losses included.
    """

    watts_per_core: float


def compute_facts(compute: Compute) -> dict[str, str]:
    """The supervisor's readings as facts; the only source of names below ``compute.``."""
    return {
        f"{PREFIX}cpu_seconds": decimal(compute.cpu_s),
        f"{PREFIX}wall_seconds": decimal(compute.wall_s),
        f"{PREFIX}memory_bytes": str(compute.memory_bytes),
    }


def _usage(metric: str, params: NoParams, evidence: Evidence, confidence: float) -> Estimate:
    return exact(evidence.number(f"{PREFIX}{metric}"))


def _training(metric: str, params: TrainingParams, evidence: Evidence, confidence: float) -> Estimate:
    weights = evidence.count("integrity.parameters")
    tokens = evidence.count(_TOKENS)
    expected = _FLOPS_PER_WEIGHT * weights * tokens
    if not expected > 0:
        raise NotMeasuredError("a model without weights, or training without tokens, has no expected cost")
    told = f"6 x {weights} weights x {tokens} tokens"
    if metric == "expected_flops":
        return exact(expected, told)
    seconds = expected / _positive(params.flops_per_core_second, "flops_per_core_second")
    return _finite(_core_seconds(evidence) / seconds, told)


def _energy(metric: str, params: EnergyParams, evidence: Evidence, confidence: float) -> Estimate:
    watts = _positive(params.watts_per_core, "watts_per_core")
    return _finite(_core_seconds(evidence) * watts / _JOULES_PER_KWH, "an estimate, up to 40 % off")


def _efficiency(metric: str, params: SuiteParams, evidence: Evidence, confidence: float) -> Estimate:
    seconds = _core_seconds(evidence)
    gain = task_gain(params.suite, evidence, confidence)
    found = Estimate(
        gain.value / seconds, gain.lower / seconds, gain.upper / seconds, gain.n, f"{gain.method}, per second"
    )
    if not found.is_number:
        raise NotMeasuredError(f"the gain on suite '{params.suite}' per core-second is not a number")
    return found


def _core_seconds(evidence: Evidence) -> float:
    seconds = evidence.number(f"{PREFIX}cpu_seconds")
    if seconds == 0:
        raise NotMeasuredError("no CPU time was measured: it was not trained here", hint="see `when`")
    return seconds


def _positive(value: float, name: str) -> float:
    if not (math.isfinite(value) and value > 0):
        raise NotMeasuredError(f"'{name}' must be a finite number above 0, not {value}")
    return value


def _finite(value: float, note: str) -> Estimate:
    if not math.isfinite(value):
        raise NotMeasuredError(f"the quotient is {value}, not a finite number")
    return exact(value, note)


CHECKS = (
    Check(
        name="compute.usage",
        doc="Resources that the proposing job used.",
        params=NoParams,
        metrics={
            "cpu_seconds": Metric("CPU time over all processes", "s", exact=True, low=0.0),
            "wall_seconds": Metric("wall clock", "s", exact=True, low=0.0),
            "memory_bytes": Metric("peak memory", "bytes", exact=True, low=0.0),
        },
        measure=_usage,
    ),
    Check(
        name="compute.training",
        doc=(
            "What training should have cost, 6 operations for each weight and token (Kaplan et al. 2020, "
            "arXiv:2001.08361), from the weights that were counted and the tokens that were ordered (steps x batch x "
            "length, at most); and the CPU seconds that it did cost, over those. Work that nobody ordered shows as a "
            "ratio far above that of earlier runs. The ratio holds start-up too, which outweighs short runs; "
            "adapters cost about two thirds of 6. Not measured for recipes whose tokens are not known beforehand "
            "(reinforcement learning, programs of others) and for submissions. Cannot see work done elsewhere."
        ),
        params=TrainingParams,
        metrics={
            "expected_flops": Metric("6 x weights x tokens", "operations", exact=True, low=0.0),
            "ratio": Metric("CPU seconds measured over those expected", "times", exact=True, low=0.0),
        },
        measure=_training,
    ),
    Check(
        name="compute.energy",
        doc=(
            "An estimate of the energy that training took: CPU seconds times the power of a core. Such models are "
            "up to 40 % off (arXiv:2509.22092): power depends on clock, load of the other cores, memory and "
            "cooling, and none of these is read. Show it; put limits on CPU seconds."
        ),
        params=EnergyParams,
        metrics={"kwh": Metric("estimated energy, up to 40 % off", "kWh", exact=True, low=0.0)},
        measure=_energy,
    ),
    Check(
        name="compute.efficiency",
        doc=(
            "What a second of one core bought: the gain over the champion (see gain.task) over the CPU seconds of "
            "training, with the interval of the gain. Comparable between runs on the same machine and suite."
        ),
        params=SuiteParams,
        metrics={"gain_per_core_second": Metric("gain over CPU seconds", "gain.task's unit per s")},
        measure=_efficiency,
    ),
)
