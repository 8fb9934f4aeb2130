"""The group that every command of ``interlock log`` joins."""

from ui.cli.group import group

log = group("log", "Read, verify, prove, witness and export the decision log.")
