"""Coverage-guided fuzzing of the policy loader: ``make fuzz`` (a million executions) or ``make fuzz-short`` (60 s).

What an input must never do: raise anything but PolicyError, take a second, or load as a policy that is looser than
its text. The first byte chooses what the rest is: a whole policy, an edit of a sound one, or a ``when``.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import atheris

# The scanner is where text becomes structure; the rest of the YAML library adds cost and no guidance.
with atheris.instrument_imports(include=["guardrails.policy"]):
    import yaml

    from guardrails.errors import NotMeasuredError, PolicyError
    from guardrails.policy import parse_policy, source_digest
    from guardrails.policy.settings import SETTINGS
    from guardrails.policy.when import flaws, holds
    from guardrails.records import PolicySource

SECOND = 1.0
# A second reader, in C where it is there: independent of the one under test, and fast.
OTHER_READER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
SOUND = """\
apiVersion: interlock/v1
kind: Policy
metadata: {name: p, version: 1}
rules:
  - id: drift
    check: drift.output_kl
    params: {suite: control}
    when: 'model.kind == "llm"'
    require: {metric: kl_mean, bound: upper, op: "<", value: 0.15}
    severity: review
    waivable: false
  - id: pii
    check: data.pii
    require: {metric: share, op: "==", value: 0}
    severity: block
approval: {coolDown: 10m, exclude: [proposer]}
"""
FACTS = {
    "model": {"name": "m", "kind": "llm", "labels": {"tier": "a"}},
    "proposal": {"technique": "t", "submitted": False, "seed": 1, "isolation": "strict", "proposer": "loop"},
}


def one_input(data: bytes) -> None:
    """One execution; raises where a promise of the loader is broken."""
    start = time.process_time()
    chosen, rest = data[:1], data[1:]
    if chosen < b"\x55":
        _policy(rest.decode("utf-8", "replace"))
    elif chosen < b"\xaa" and len(rest) > 3:
        at = int.from_bytes(rest[:2], "big") % len(SOUND)
        _policy(SOUND[:at] + rest[3:].decode("utf-8", "replace") + SOUND[at + rest[2] % 16 :])
    else:
        _when(rest.decode("utf-8", "replace"))
    if time.process_time() - start > SECOND:
        raise TimeoutError(f"{time.process_time() - start:.2f} s for {data[:80]!r}")


def _policy(text: str) -> None:
    files = {"p.yaml": text}
    try:
        policy = parse_policy(PolicySource("p", source_digest(files), ("p.yaml",), files))
    except PolicyError as error:
        if not error.problems or any(p.line < 1 or p.column < 1 for p in error.problems):
            raise AssertionError("a refusal without a place") from error
        return
    # Texts only: what loaded is what stands there.
    plain = yaml.load(text, Loader=OTHER_READER)
    if text.replace("\r\n", "\n").removesuffix("\n").split("\n") != text.removesuffix("\n").splitlines():
        raise AssertionError("a line break that an editor may show as something else")
    if policy.mode != plain.get("mode", "enforce"):
        raise AssertionError("the mode is not what the text says")
    if set(policy.settings) != {setting.path for setting in SETTINGS if _stands(plain, setting.path)}:
        raise AssertionError("a setting was lost or came from nowhere")
    stated = plain.get("rules") or []
    if [rule.id for rule in policy.rules] != [rule["id"] for rule in stated]:
        raise AssertionError("a rule was lost")
    for rule, raw in zip(policy.rules, stated, strict=True):
        limit = raw["require"]
        said = (
            raw["check"],
            limit["metric"],
            limit.get("bound", ""),
            limit["op"],
            raw["severity"],
            raw.get("when", ""),
        )
        found = rule.require
        if (rule.check, found.metric, found.bound, found.op, rule.severity.value, rule.when) != said:
            raise AssertionError(f"{rule} is not what {raw} says")
        if rule.require.value != _number(raw["require"]["value"]):
            raise AssertionError(f"{rule.require} is not what {raw['require']} says")
        if rule.waivable != (raw.get("waivable", "true").lower() == "true"):
            raise AssertionError("waivable is not what the text says")


def _stands(plain: dict[str, Any], path: str) -> bool:
    node: Any = plain
    for part in path.split("."):
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    return True


def _number(text: str) -> float:
    if text[:2] in ("0x", "0o"):
        return float(int(text, 0))
    return float(text)


def _when(text: str) -> None:
    flaws(text)
    try:
        answer = holds(text, FACTS)
    except NotMeasuredError:
        return
    if not isinstance(answer, bool):
        raise TypeError("a 'when' that is neither true nor false")


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
