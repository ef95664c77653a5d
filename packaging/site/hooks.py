"""What MkDocs does for this project besides its own: pages and files from outside of docs/, equations, citations."""

import re
import sys
import tomllib
from pathlib import Path
from posixpath import normpath, relpath
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))

from browser import browser_files  # noqa: E402
from command_line import command_line_page  # noqa: E402
from equations import equation, with_formulas, with_subscripts  # noqa: E402

ELSEWHERE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
    "src/crfrnn/models/builtin/MODEL_CARD.md": "model-card.md",
    "wasm/package/README.md": "javascript.md",
}
"""Documents outside of docs/ that are pages too."""
COMMAND_LINE = "reference/command-line.md"
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)(#[^)\s]*)?(?=\))")
LISTED = re.compile(r"^::: ((?:\w+\.)*(\w+))$", re.MULTILINE)
CITED = re.compile(r"docs/([\w-]+)\.md(?:,\s+(eq\.|sections?)\s+(\d+))?")


def on_config(config: Any) -> Any:
    """Fences of `math` are equations; site and repository are those that the package names."""
    config.mdx_configs["pymdownx.superfences"] = {
        "custom_fences": [{"name": "math", "class": "equation", "format": equation}]
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    urls = {name.lower(): url for name, url in project.get("urls", {}).items()}
    config.site_url = urls.get("documentation")
    if "source" in urls:  # in the footer: beside the title, pages would ask GitHub for its stars
        config.extra["social"] = [{"icon": "fontawesome/brands/git-alt", "link": urls["source"], "name": "Source"}]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that do not lie in docs/."""
    for source, page in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    files.append(File.generated(config, COMMAND_LINE, content=command_line_page()))
    for name, given in browser_files().items():
        files.append(File.generated(config, f"browser/{name}", **given))
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text, resources = MarkdownExporter().from_filename(str(notebook), {"output_files_dir": notebook.stem})
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=text))
        for name, drawn in resources["outputs"].items():
            files.append(File.generated(config, f"notebooks/{name}", content=drawn))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Take files outside of docs/ that a page links to into the site; name what the reference lists."""
    place = page.file.src_uri
    if place == "changelog.md":
        page.meta["search"] = {"boost": 0.1}  # after the pages that explain
    sources = {uri: source for source, uri in ELSEWHERE.items()}
    here = sources.get(place, place if place.startswith("notebooks/") else f"docs/{place}")

    def target(match: re.Match[str]) -> str:
        path, anchor = match[1], match[2] or ""
        source = normpath(f"{here.rpartition('/')[0]}/{path}".lstrip("/"))
        if source in ELSEWHERE:
            uri = ELSEWHERE[source]
        elif source.startswith("docs/"):
            uri = source.removeprefix("docs/")
        elif source.startswith("notebooks/") and source.endswith(".ipynb"):
            uri = source.removesuffix("ipynb") + "md"
        elif (ROOT / source).is_file():
            uri = f"files/{source}"
            if files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, abs_src_path=str(ROOT / source)))
        else:
            return match[0]  # MkDocs says that it is not there
        return relpath(uri, place.rpartition("/")[0] or ".") + anchor

    return LISTED.sub(listed, LINK.sub(target, markdown))


def listed(match: re.Match[str]) -> str:
    """A public name of the reference; where it is also that of the module that defines it, the function is meant."""
    name, last = match[1], match[2]
    module = ROOT.joinpath("src", *name.split(".")).with_suffix(".py")
    if module.is_file() and re.search(rf"^def {last}\(", module.read_text(encoding="utf-8"), re.MULTILINE):
        return f'::: {name}.{last}\n    options: {{ heading: "{name}", toc_label: "{last}" }}'
    return match[0]


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Draw formulas and set subscripts, and in the reference link the pages and equations that docstrings cite."""
    if not page.file.src_uri.startswith("reference/"):
        return with_subscripts(with_formulas(html))

    def link(match: re.Match[str]) -> str:
        cited = files.get_file_from_path(f"{match[1]}.md")
        if cited is None:
            raise PluginError(f"{page.file.src_uri}: a docstring cites {match[0]}, which is no page")
        anchor = f"#{anchors(cited, match[2])[int(match[3])]}" if match[3] else ""
        words = " ".join(filter(None, [f"{match[1]}{',' if match[3] else ''}", match[2], match[3]]))
        return f'<a href="{cited.url_relative_to(page.file)}{anchor}">{words}</a>'

    return with_subscripts(CITED.sub(link, html))


def anchors(file: Any, kind: str) -> dict[int, str]:
    """The anchors of a page's equations, or of its numbered sections, by number."""
    text = file.content_string
    if kind == "eq.":
        return {int(number): f"eq-{number}" for number in re.findall(r"\\tag\{(\d+)\}", text)}
    headings = re.findall(r"^## ((\d+)\. .+)$", text, re.MULTILINE)
    return {int(number): re.sub(r"[^\w\- ]", "", heading).replace(" ", "-").lower() for heading, number in headings}
