"""The console: what people look at before they sign, and where they sign.

Invariants:
- It holds no authority. Every decision is ``gate.draft`` and ``gate.commit`` with the key and the
  passphrase of the person who decides; a browser session is only a claim about who is looking.
- What is signed is what was shown: a decision whose binding differs from the one on the page is refused.
- Text that a model, a record, a file or a person wrote is hostile: it is escaped (``markup``) or shown by
  ``st.code``; it never passes through Markdown and never becomes markup.
- A page loads nothing from elsewhere (``middleware``): fonts, icons and scripts come from this server.

``serve`` starts the server, ``app`` is the script that Streamlit runs for each visitor, ``session`` holds
what lives longer than one run, ``views`` are the pages.
"""
