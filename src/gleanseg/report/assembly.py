"""Putting sections into the one self-contained page that all reports share."""

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from string import Template
from typing import NamedTuple

from gleanseg.report.markup import Html, html, tag


class Section(NamedTuple):
    """One part of the page with its anchor."""

    id: str
    title: str
    body: Html


def assemble(title: str, headline: Html, sections: Sequence[Section]) -> str:
    """The page; it loads nothing from elsewhere, and its only script is named by its hash."""
    links = [tag("li", tag("a", s.title, href=f"#{s.id}")) for s in sections]
    body = [tag("section", tag("h2", s.title), s.body, id=s.id) for s in sections]
    script = _resource("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return Template(_resource("page.html")).substitute(
        title=html(title),
        script_hash=f"sha256-{digest}",
        style=_resource("page.css"),
        headline=headline,
        links=html(links),
        sections=html(body),
        script=script,
    )


def _resource(name: str) -> str:
    return files("gleanseg.report").joinpath(name).read_text(encoding="utf-8")
