"""What the site has beside docs/: pages from the top of the project, notebooks, the API's pages, formulas as MathML.

mkdocs calls the functions `on_*` (mkdocs.yml, `hooks`).
"""

from __future__ import annotations

import base64
import html
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import griffe
import ziamath
from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont
from math_core import LatexError, LatexToMathML
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
TOP = ("README.md", "RESULTS.md", "CHANGELOG.md", "CONTRIBUTING.md")
PACKAGES = ("lightning_avb", "datamodules")
OUTSIDE = re.compile(r"\]\(\.\./([^)#]+)")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>([.,;:)]*)', re.DOTALL)
LATEX = LatexToMathML(fancy_error=False)
CHARACTERS: set[str] = set()
ITALIC = [0x210E, *range(0x1D434, 0x1D468), *range(0x1D6E2, 0x1D71C)]
"""What browsers draw for a letter that stands alone."""


def on_config(config: MkDocsConfig) -> None:
    """The API's pages in the navigation."""
    config.watch += [str(ROOT / name) for name in (*TOP, *PACKAGES)]
    assert config.nav
    pages = [{room.removeprefix("lightning_avb."): f"api/{room}.md"} for room in rooms()]
    config.nav.append({"API": ["api/index.md", *pages]})


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Pages from the top of the project, files of the project that pages link to, and the API's pages."""
    for name in TOP:
        files.append(File.generated(config, name, content=(ROOT / name).read_text().replace("](docs/", "](")))
    for page in [path.read_text() for path in (ROOT / "docs").glob("*.md")]:
        for name in {*OUTSIDE.findall(page)} - {*TOP}:
            files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    for path in (ROOT / "docs" / "tutorials").glob("*.ipynb"):
        add_notebook(files, config, path)
    files.append(File.generated(config, "api/index.md", content=exported()))
    for room, modules in rooms().items():
        content = "\n\n".join([f"# {room}", *(f"::: {module}" for module in modules)])
        files.append(File.generated(config, f"api/{room}.md", content=content))


def add_notebook(files: Files, config: MkDocsConfig, path: Path) -> None:
    """A page of the cells of a notebook and of the outputs that are kept in it, and its pictures."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{path.stem}_{len(parts)}.png"
                picture = base64.b64decode(data["image/png"])
                files.append(File.generated(config, f"tutorials/{name}", content=picture))
                parts.append(f"![what the cell above draws]({name})")
            else:
                parts.append(f"```text\n{''.join(output.get('text') or data['text/plain']).rstrip()}\n```")
    parts.append(f"This page is the notebook [{path.name}]({path.name}).")
    files.append(File.generated(config, f"tutorials/{path.stem}.md", content="\n\n".join(parts)))


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links that leave docs/ in the project stay on the site, and those to notebooks lead to their pages."""
    if "/" in page.file.src_uri:
        return markdown
    return markdown.replace("](../", "](").replace(".ipynb)", ".md)")


def on_page_content(content: str, page: Page, **_: Any) -> str:
    """Formulas as MathML, which browsers draw by themselves; one that is not LaTeX ends the build."""

    def mathml(found: re.Match[str]) -> str:
        try:
            drawn = LATEX.convert_with_local_state(html.unescape(found[3]), displaystyle=found[2] == "[")
        except LatexError as error:
            raise PluginError(f"{page.file.src_uri}: {html.unescape(found[3])}: {error}") from error
        CHARACTERS.update(html.unescape(re.sub("<[^>]*>", "", drawn)))
        return f'<{found[1]} class="formula">{drawn}{found[4]}</{found[1]}>'

    return FORMULA.sub(mathml, content)


def on_post_build(config: MkDocsConfig) -> None:
    """A font for the formulas, with the characters that they use, as not every reader's system has one."""
    upright = {unicodedata.normalize("NFKC", character) for character in CHARACTERS}
    italic = {i for i in ITALIC if unicodedata.normalize("NFKC", chr(i)) in upright}
    font = TTFont(Path(ziamath.__file__).with_name("fonts") / "STIXTwoMath-Regular.ttf", lazy=True)
    subsetter = Subsetter(Options(layout_features=["*"]))
    subsetter.populate(unicodes=[*map(ord, CHARACTERS), *italic])
    subsetter.subset(font)
    font.flavor = "woff2"
    font.save(Path(config.site_dir) / "theme" / "formulas.woff2")


def rooms() -> dict[str, list[str]]:
    """The modules of every page of the API: a folder of the package is a page, and so is a file."""
    pages: dict[str, list[str]] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if not parts[-1].startswith("__"):
                room = ".".join(parts[:2]) if package == "lightning_avb" else package
                pages.setdefault(room, []).append(".".join(parts))
    return pages


def exported() -> str:
    """What `from lightning_avb import ...` offers, with the first line of each docstring."""
    package = griffe.load("lightning_avb", search_paths=[ROOT])
    lines = ["# API", "", "| `from lightning_avb import` | |", "|---|---|"]
    for name in package.exports or []:
        target = package[name]
        target = target.final_target if target.is_alias else target
        if target.is_module:
            continue
        first = target.docstring.value.partition("\n")[0].replace("|", "\\|") if target.docstring else ""
        lines.append(f"| [`{name}`][{target.path}] | {first} |")
    return "\n".join(lines)
