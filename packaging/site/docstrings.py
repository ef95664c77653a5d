"""Lets griffe read the project's docstrings, in which text may follow the head of a section on the same line."""

import re
from typing import Any

from griffe import Extension, Object

HEAD = re.compile(r"^(Args|Attributes|Returns|Raises|Warns|Yields|Cost|References): *(.*)$")
OF_SEVERAL_ITEMS = ("Raises", "Warns")
STAR = re.compile(r"(?<![*`\w])\*(?=[a-z])")
"""Of a shape such as (C, *spatial): no emphasis."""
REMARKS = ("Returns", "Yields", "Cost", "References")
"""Paragraphs that begin with their name. Griffe knows two not at all, and in the others takes words before a colon
for types."""


def in_sections(text: str) -> str:
    """A docstring without indent, with an empty line above each section and its text below its head."""
    lines: list[str] = []
    deeper = ""
    for line in text.splitlines():
        head = HEAD.match(line)
        if head is None:
            deeper = deeper if line.startswith(" ") else ""
            lines.append(deeper + line)
            continue
        name, rest = head.groups()
        deeper = "    " if rest and name in OF_SEVERAL_ITEMS else ""
        if name in REMARKS:
            lines += ["", f"**{name}:** {rest}"]
        else:
            lines += ["", f"{name}:", *([f"    {rest}"] if rest else [])]
    return STAR.sub(r"\\*", "\n".join(lines))


class Sections(Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = in_sections(obj.docstring.value)
