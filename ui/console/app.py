"""The script that Streamlit runs for each visitor, from top to bottom at every click."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from guardrails.errors import InterlockError
from ui.console import markup, session
from ui.console.views import champions, label, log, policies, proposal, queue, setup, sidebar
from ui.setup import is_founded

HERE = Path(__file__).parent

st.set_page_config(
    page_title="Interlock", page_icon=str(HERE / "static" / "icon.png"), layout="wide",
    initial_sidebar_state="auto", menu_items={"Get help": None, "Report a bug": None, "About": None},
)  # fmt: skip
st.html(HERE / "console.css")
# Dialogs and menus are drawn outside the element that carries the theme's colour scheme.
_SCHEME = "dark" if st.context.theme.type == "dark" else "light"
st.html(f"<style>[role=dialog], [data-baseweb=popover] {{ color-scheme: {_SCHEME}; }}</style>")


def main() -> None:
    """Set-up while there is nobody; then the pages."""
    workspace = session.console().workspace
    # The same pages always, also during set-up: a browser that loses its page shows nothing at all.
    pages = {
        "queue": st.Page(queue.page, title="Queue", url_path="queue", default=True),
        "champions": st.Page(champions.page, title="Champions", url_path="champions"),
        "policies": st.Page(policies.page, title="Policies", url_path="policies"),
        "label": st.Page(label.page, title="Label", url_path="label"),
        "log": st.Page(log.page, title="Decision log", url_path="log"),
        "proposal": st.Page(proposal.page, title="Proposal", url_path="proposal", visibility="hidden"),
    }
    st.session_state["pages"] = pages
    page = st.navigation(list(pages.values()), position="hidden")
    if not is_founded(workspace) or "founding" in st.session_state:
        setup.frame(workspace)
        setup.page()
        return
    if st.session_state.get("page") != page.url_path:
        session.drop_receipt()
        st.session_state["page"] = page.url_path
    if not session.lock_if_idle():
        session.touch()
    sidebar.show(pages)
    if session.is_locked():
        sidebar.lock_screen()
        return
    sidebar.halt_banner()
    setup.incomplete(workspace)
    page.run()


try:
    main()
except InterlockError as error:
    markup.show(markup.notice("bad", error.message, error.hint))
