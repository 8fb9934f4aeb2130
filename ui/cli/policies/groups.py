"""The two groups of commands that this package fills."""

from __future__ import annotations

from ui.cli.group import group

policy = group("policy", "Check, test, compare, show and activate policies.")
waiver = group("waiver", "Grant, list and revoke exceptions.")
