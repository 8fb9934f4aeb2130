"""Policies: what must hold before a model may change, in a file that people can read and diff.

Read in this order: ``yaml_tree`` (bytes to located values), ``schema`` and ``validate`` (first pass),
``build`` (second pass), ``extend`` and ``loader`` (several files), ``model`` (the result), ``order``
and ``settings`` (what is stricter), ``effective`` and ``compare`` (several policies, two versions),
``facts`` and ``when`` (selectors), ``lint`` and ``together`` (warnings on one and on several).
"""

from guardrails.policy.compare import Change, compare, is_tightening
from guardrails.policy.effective import Effective, combine, matching
from guardrails.policy.facts import FACTS, Subject
from guardrails.policy.lint import lint
from guardrails.policy.loader import load_policy, parse_policy, source_digest
from guardrails.policy.model import LoadedPolicy, Policy, QuorumRule, Require, Rule, Scope
from guardrails.policy.schema import policy_schema
from guardrails.policy.together import contradictions, holding, unknown_waivers

__all__ = [
    "FACTS",
    "Change",
    "Effective",
    "LoadedPolicy",
    "Policy",
    "QuorumRule",
    "Require",
    "Rule",
    "Scope",
    "Subject",
    "combine",
    "compare",
    "contradictions",
    "holding",
    "is_tightening",
    "lint",
    "load_policy",
    "matching",
    "parse_policy",
    "policy_schema",
    "source_digest",
    "unknown_waivers",
]
