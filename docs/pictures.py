"""The pictures of README.md, from real output: `make demo`, then `python docs/pictures.py`.

docs/plan.svg is what `pintpot plan` prints for the model of the examples; docs/report.svg is the top of the demo's
report. Both are drawn text, without fonts or files from elsewhere, and the report follows the reader's light or dark.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console
from rich.terminal_theme import TerminalTheme

import pintpot
from pintpot.cli.plan_view import show_plan
from pintpot.errors import need
from pintpot.meter.home import home

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "examples"))
from smollm2 import model  # noqa: E402  (the examples are no package)

MEMORY, CONTEXT = "110MB", 512
REPORT_WIDTH, REPORT_HEIGHT = 960, 1300

THEME = TerminalTheme(
    (26, 30, 36),
    (233, 230, 223),
    [(39, 44, 52), (255, 140, 126), (82, 198, 140), (229, 173, 72), (89, 150, 217), (171, 148, 216), (89, 185, 217),
     (233, 230, 223)],
    [(128, 136, 146), (255, 160, 148), (116, 212, 160), (240, 196, 110), (134, 169, 238), (190, 172, 228),
     (130, 205, 230), (255, 255, 255)],
)  # fmt: skip
TERMINAL = """<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>{styles}
.{unique_id}-matrix {{ font: {char_height}px ui-monospace, Menlo, Consolas, monospace; white-space: pre; }}
</style>
<defs>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})">{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g>
</svg>
"""
PAGE = """<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" xmlns="http://www.w3.org/2000/svg">
<foreignObject width="{width}" height="{height}">
<div xmlns="http://www.w3.org/1999/xhtml" class="page"><style>{style}</style>
{body}
</div>
</foreignObject>
</svg>
"""


def draw_plan(path: Path) -> None:
    """The plan's table, as the terminal shows it."""
    plan = pintpot.plan(model(), memory=MEMORY, context=CONTEXT)
    console = Console(record=True, width=100, file=io.StringIO(), highlight=False, markup=False)
    console.print("$ pintpot plan SmolLM2-135M-Instruct.Q4_1.gguf --memory 110MB --context 512", style="bold")
    show_plan(plan, console)
    drawn = console.export_svg(theme=THEME, code_format=TERMINAL, unique_id="plan", title="")
    path.write_text(drawn, encoding="utf-8")


def draw_report(page: Path, path: Path) -> None:
    """The top of a report; its markup goes into the picture as it is, which asks that it be well-formed."""
    text = page.read_text(encoding="utf-8")
    style, body = (re.search(rf"<{tag}>(.*)</{tag}>", text, re.DOTALL) for tag in ("style", "body"))
    need(style is not None and body is not None, f"{page} is not a report")
    if style is None or body is None:
        return
    # The page's own element stands for the root and the body of the report.
    rules = (
        style[1]
        .replace(":root", ".page")
        .replace("\nbody {", "\n.page {")
        .replace("margin: 0 auto; max-width: 60rem;", "")
    )
    inside = body[1].replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ')
    picture = PAGE.format(width=REPORT_WIDTH, height=REPORT_HEIGHT, style=rules, body=inside)
    ElementTree.fromstring(picture)
    path.write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    draw_plan(HERE / "plan.svg")
    draw_report(home() / "demo" / "report.html", HERE / "report.svg")
