"""Proposing and measuring, isolated. Imports ``guardrails``; never imported by it."""
