"""The pages of a report: one self-contained HTML file each, that asks no network for anything."""

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, files
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from multiattempt_trl.evaluation.pages import paper_numbers, second, tables
from multiattempt_trl.evaluation.pages.figures import GRID, INK, MUTED, PALETTE, PAPER
from multiattempt_trl.evaluation.pages.markdown import interval, one_line, percent

SCRIPTS = ("data.js", "maths.js", "dialogue.js", "browser.js")
KATEX = "sphinxcontrib-katex"
"""The package on PyPI that ships KaTeX's script. It is read as a file; nothing of Sphinx is imported."""

THEME = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--rule)",
    PAPER: "var(--paper)",
    "#BBBBBB": "var(--line)",
    **{colour: f"var(--hue-{i})" for i, colour in enumerate(PALETTE)},
}
"""The colours of a figure -> what the page calls them, so that they follow its light and its dark mode."""


def render(template: str, scripts: Sequence[str], **values: Any) -> str:
    """A page from a template; whatever is not `Markup` in the values is escaped."""
    pages = Environment(
        loader=PackageLoader("multiattempt_trl.evaluation.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"percent": percent, "interval": interval, "one_line": one_line}
    blocks = [_script(text) for text in scripts]
    return pages.get_template(template).render(
        style=Markup(_file("report.css")),
        scripts=[Markup(text) for text in blocks],
        hashes=[_digest(text) for text in blocks],
        paper=paper_numbers,
        tables=tables,
        second=second,
        **values,
    )


def browser_scripts() -> list[str]:
    """KaTeX, and our own."""
    return [katex(), "\n".join(map(_file, SCRIPTS))]


def katex() -> str:
    """KaTeX's script, from the installed package.

    Raises `ValueError` where the package is not there, or is without it.
    """
    try:
        found = [file for file in files(KATEX) or () if file.name == "katex.min.js"]
    except PackageNotFoundError:
        found = []
    if not found:
        raise ValueError(f"KaTeX is missing, which renders the report's LaTeX; pip install {KATEX}")
    return Path(str(found[0].locate())).read_text(encoding="utf-8")


def inline(svg: str, name: str, description: str) -> Markup:
    """A figure as part of a page: without its size and metadata, in the page's font and colours, its ids its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(?<= id=")|(?<=url\(#)|(?<=href="#)', f"{name}-", svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    svg = re.sub(r'<svg([^>]*?) width="[^"]*" height="[^"]*"', r"<svg\1", svg, count=1)
    for colour, variable in THEME.items():
        svg = re.sub(re.escape(colour), variable, svg, flags=re.IGNORECASE)
    return Markup(svg.replace("<svg", Markup('<svg class="figure" role="img" aria-label="{}"').format(description), 1))


def _script(text: str) -> str:
    """A script as it may stand in a page; ours and KaTeX's hold nothing that would end it."""
    text = text.replace("\r\n", "\n")
    assert not re.search(r"</script|<!--", text, flags=re.IGNORECASE), "a script would end its own tag"
    return text


def _digest(script: str) -> str:
    """What the page's policy calls a script that may run; all others may not."""
    return "sha256-" + b64encode(sha256(script.encode()).digest()).decode()


def _file(name: str) -> str:
    return (resources("multiattempt_trl.evaluation.pages") / "templates" / name).read_text(encoding="utf-8")


def sections(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The blocks that tables are made of: the average first, where there are several benchmarks."""
    blocks: Mapping[str, Any] = summary["benchmarks"]
    return dict(blocks) if len(blocks) == 1 else {"Average": summary["average"], **blocks}
