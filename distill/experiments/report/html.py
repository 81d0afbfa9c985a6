"""The report as one HTML file: jinja2 escapes every string, and the page's policy allows its own style and script alone."""

import base64
import hashlib
import importlib.resources

import jinja2
from markupsafe import Markup

from distill.experiments.report import charts, text
from distill.experiments.report.blocks import Block, Cell, Document

_LONG = 700  # characters of a rationale or an input that are shown


def _file(name: str) -> str:
    return (importlib.resources.files("distill.experiments.report") / name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() + "'"


def policy(style: str, script: str) -> str:
    """The content security policy of a page: nothing is loaded, and nothing but its style and script is applied or run."""
    return (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )


def _kind(block: Block) -> str:
    return type(block).__name__.lower()


def render(document: Document) -> str:
    """Returns the whole page."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["shown"] = lambda value: text.shown(value, _LONG)
    environment.filters["code"] = lambda value: text.shown(value, 10_000)
    environment.filters["one_line"] = text.one_line
    environment.filters["tied"] = lambda value: value.replace(" %", "\u00a0%")
    environment.filters["block_kind"] = _kind
    environment.tests["cell"] = lambda value: isinstance(value, Cell)
    style, script = _file("page.css"), _file("page.js")
    page = environment.from_string(_file("page.html"))
    return page.render(
        document=document,
        style=Markup(style),
        script=Markup(script),
        policy=Markup(policy(style, script)),
        svg=charts.svg,
        marker=charts.marker,
        kind=_kind,
    )
