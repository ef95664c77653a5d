"""Fences of `math` as drawings, and subscripts in the text between: nothing is left for the browser to load."""

import html
import re
from typing import Any

import ziamath

TAG = re.compile(r"\\tag\{(\d+)\}")
UNTOUCHED = re.compile(r"(<(code|pre|svg)\b.*?</\2>|<[^>]*>)", re.DOTALL)
SUBSCRIPT = re.compile(r"(?<!\w)([^\W\d_])_([a-zα-ω\d]{1,2}|T)(?![A-Za-z\d_])")
ziamath.config.precision = 2


def equation(source: str, language: str, css_class: str, options: Any, md: Any, **_: Any) -> str:
    """An equation in LaTeX as HTML, with the number of its \\tag and an anchor of the same number, `#eq-4`."""
    number = TAG.search(source)
    words = TAG.sub("", source).strip()
    drawn = ziamath.Latex(words, size=18, color="currentColor").svg()
    drawn = drawn.replace("<svg ", f'<svg role="img" aria-label="{html.escape(words)}" ', 1)
    if number is None:
        return f'<div class="equation">{drawn}</div>'
    return f'<div class="equation" id="eq-{number[1]}">{drawn}<span>({number[1]})</span></div>'


def with_subscripts(page: str) -> str:
    """HTML in which θ_α and the like have subscripts, outside of code."""
    parts = UNTOUCHED.split(page)
    parts[::3] = [SUBSCRIPT.sub(r"\1<sub>\2</sub>", part) for part in parts[::3]]
    return "".join(part for index, part in enumerate(parts) if index % 3 != 2)
