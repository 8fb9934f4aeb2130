"""Policies and waivers: write, try and compare a file, see what is in force, sign what should be.

Invariants: only ``activate``, ``deactivate`` and ``waiver add`` change anything, by a signature; a policy is in
force only by a signed activation of its exact bytes; a waiver is a signed, dated exception, never text in a file.

``files`` check, schema and documentation; ``in_force`` show and activate; ``waivers``; ``cases`` tests of
policies; ``past`` backtest and difference.
"""

from ui.cli.policies import cases, files, in_force, past, waivers
from ui.cli.policies.groups import policy, waiver

__all__ = ["cases", "files", "in_force", "past", "policy", "waiver", "waivers"]
