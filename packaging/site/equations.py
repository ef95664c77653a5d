"""Fences of `math` as drawings, and subscripts in the text between: nothing is left for the browser to load."""

import html
import re
from typing import Any

import ziamath

TAG = re.compile(r"\\tag\{(\d+)\}")
DOLLARS = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
UNTOUCHED = re.compile(r"(<(code|pre|svg)\b.*?</\2>|<[^>]*>)", re.DOTALL)
SUBSCRIPT = re.compile(r"(?<!\w)([^\W\d_])_([a-zα-ω\d]{1,2}|T)(?![A-Za-z\d_])")
ziamath.config.precision = 2


def equation(source: str, language: str, css_class: str, options: Any, md: Any, **_: Any) -> str:
    """An equation in LaTeX as HTML, with the number of its \\tag and an anchor of the same number, `#eq-4`."""
    number = TAG.search(source)
    drawn = drawing(TAG.sub("", source).strip())
    if number is None:
        return f'<div class="equation">{drawn}</div>'
    return f'<div class="equation" id="eq-{number[1]}">{drawn}<span>({number[1]})</span></div>'


def drawing(words: str, inline: bool = False) -> str:
    """LaTeX as SVG, on the baseline of the text around it if inline."""
    drawn = ziamath.Latex(words, size=18, inline=inline, color="currentColor")
    style = f'style="vertical-align: {drawn.getyofst():.1f}px" ' if inline else ""
    return drawn.svg().replace("<svg ", f'<svg {style}role="img" aria-label="{html.escape(words)}" ', 1)


def with_formulas(page: str) -> str:
    """HTML in which what stood between dollars is drawn, as in notebooks."""

    def formula(match: re.Match[str]) -> str:
        words = html.unescape(match[2])
        return drawing(words, inline=True) if match[1] == "span" else f'<div class="equation">{drawing(words)}</div>'

    return DOLLARS.sub(formula, page)


def with_subscripts(page: str) -> str:
    """HTML in which θ_α and the like have subscripts, outside of code."""
    parts = UNTOUCHED.split(page)
    parts[::3] = [SUBSCRIPT.sub(r"\1<sub>\2</sub>", part) for part in parts[::3]]
    return "".join(part for index, part in enumerate(parts) if index % 3 != 2)
