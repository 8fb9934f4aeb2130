"""What people see: command line and console. Imports ``sandbox`` and ``guardrails``."""
