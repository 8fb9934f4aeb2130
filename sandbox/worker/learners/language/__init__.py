"""Learners of language models that write: what they say is sampled, rewarded, chosen among, imitated."""
