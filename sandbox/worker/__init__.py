"""What runs inside isolation. Imports from guardrails only records, canonical, errors, statistics."""
