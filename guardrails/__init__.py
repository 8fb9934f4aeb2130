"""The trusted core: what was measured, what the rules make of it, what people signed, what is in force.

Read in this order: ``errors``, ``canonical``, ``records`` (what flows); ``policy``, ``checks``,
``engine`` (evidence to verdict, pure); ``approval`` (quorum, pure); ``decision_log`` (signed Merkle
log); ``ledger`` (what the log says, pure); ``registry`` (artifacts by content); ``gate`` (the only
way to change anything). It imports no ray, torch, transformers or streamlit, so that an auditor can
install it alone and check a log with it.
"""
