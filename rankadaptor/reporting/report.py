"""The report of a profile: one HTML page over all that its folder holds, without server, script or network."""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mistune
from jinja2 import Environment, PackageLoader, StrictUndefined

from rankadaptor.data.text import read_text
from rankadaptor.errors import BadInput
from rankadaptor.files import scratch_beside
from rankadaptor.profiles import load_profile
from rankadaptor.reporting.claims import claims_table
from rankadaptor.reporting.paper.inconsistencies import inconsistencies

# Sections in the order of the report: name of the page's .md, heading, and stem of its figures and numbers.
_SECTIONS = (
    ("headroom", "Headroom", "headroom"),
    ("ceiling", "The ceiling of uniform ranks", "ceiling"),
    ("table2", "Table 2: recovered models", "table2"),
    ("table6", "Table 6: pruned and not recovered", "table6"),
    ("figure2", "Figure 2: LoRA and LoRA*", "figure2"),
    ("table1", "Table 1: AdaLoRA", "table1"),
    ("table3", "Table 3: its four ablations", "table3"),
    ("ablations", "Ablations", "ablation"),
    ("figure5-samples", "Figures 5 and 6: what models write", "figure5"),
    ("search", "The search, replayed", "search"),
    ("rivals", "Rivals at equal budget", "rivals"),
    ("paper", "The paper's protocol", "paper"),
    ("table4", "Table 4", "table4"),
    ("table5", "Table 5", "table5"),
    ("pruning", "What pruning takes", "pruning"),
    ("testbed", "The testbed", "testbed"),
)
_ALIGNED = ' style="text-align:left"'  # as Markdown's tables have it; the page's style says so


# Tags that `samples.side_by_side` writes, and nothing with an attribute but its class.
_OTHER_TAG = re.compile(r'<(?!(?:/?(?:p|strong|table|thead|tbody|tr|th|td)|br|table class="texts")>)')


class _Renderer(mistune.HTMLRenderer):
    """Headings go one level down, under the section's own heading, which replaces the page's."""

    def __init__(self) -> None:
        super().__init__(escape=False)  # some pages hold tables in HTML: `block_html` lets these through, and no more

    def block_html(self, html: str) -> str:
        """The tags of tables of continuations; of any other its characters."""
        return f"{_OTHER_TAG.sub('&lt;', html)}\n"

    def inline_html(self, html: str) -> str:
        """As of a block."""
        return _OTHER_TAG.sub("&lt;", html)

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """The text alone: no page links anywhere."""
        return text

    def image(self, text: str, url: str, title: str | None = None) -> str:
        """No image: every figure of a section stands below its text."""
        return ""

    def heading(self, text: str, level: int, **attrs: Any) -> str:
        """A heading one level down; none for the page's own."""
        return "" if level == 1 else f"<h{level + 1}>{text}</h{level + 1}>\n"


_markdown = mistune.create_markdown(renderer=_Renderer(), plugins=["table"])


def write_report(profile: str, folder: Path | str) -> Path:
    """Write index.html over the pages that a folder holds, and return it.

    Args:
        profile: Name of the profile of the pages, or path of its YAML file.
        folder: Of a run, reports/PROFILE/BUDGET, or of the committed pages, reports/PROFILE.

    Raises:
        BadInput: on an unknown profile, or if nothing was reported yet.
    """
    loaded, folder = load_profile(profile), Path(folder)
    sections = [_section(folder, name, title, stem) for name, title, stem in _SECTIONS
                if (folder / f"{name}.md").is_file()]
    if not sections:
        raise BadInput(f"{folder} holds no report yet: make reproduce-table2 first")
    loader = PackageLoader("rankadaptor.reporting", ".")
    template = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    page = template.get_template("report.html.j2").render(
        profile=loaded,
        claims=claims_table(folder, loaded).to_dict("records"),
        notebooks={path.stem for path in folder.glob("*.ipynb")},
        sections=sections,
        paper=inconsistencies().to_dict("records"),
        machines=_machines(folder, sections),
    )
    target = folder / "index.html"
    with scratch_beside(target) as scratch:
        (scratch / target.name).write_text(page, encoding="utf-8")
        os.replace(scratch / target.name, target)
    return target


def _section(folder: Path, name: str, title: str, stem: str) -> dict[str, Any]:
    """Text, figures, files and provenance of one section, as the template takes them."""
    body = str(_markdown(read_text(folder / f"{name}.md"))).replace(_ALIGNED, "")
    provenance = folder / f"{name if name == 'ablations' else stem}-provenance.json"
    origin = _origin(provenance)
    numbers = {*folder.glob(f"{stem}.*"), *folder.glob(f"{stem}-*"), *folder.glob(f"{name}.*")}
    return {
        "name": name,
        "title": title,
        "body": body.replace("<table", '<div class="wide"><table').replace("</table>", "</table></div>"),
        "figures": sorted(path.stem for path in folder.glob(f"{stem}-*.svg")),
        "files": sorted(path.name for path in numbers if path.suffix in (".csv", ".tex")),
        "provenance": provenance.name,
        "seconds": origin.get("seconds", {}),
        "ledger_keys": sum(map(len, origin.get("ledger_keys", {}).values())),
    }


def _origin(path: Path) -> dict[str, Any]:
    """Content of a provenance file; nothing where there is none."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError):
        content = None
    if not (isinstance(content, dict) and _are_keys(content.get("ledger_keys")) and
            _are_seconds(content.get("seconds", {})) and isinstance(content.get("machines", []), list)):
        raise BadInput(f"{path} is no provenance of a report: remove it, or make the report anew")
    return content


def _are_keys(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(group, list) for group in value.values())


def _are_seconds(value: Any) -> bool:
    """Whether a value is what `provenance.seconds_by_stage` returns."""
    return isinstance(value, dict) and all(
        isinstance(time, dict) and all(isinstance(time.get(name), int | float) for name in ("stages", "seconds"))
        for time in value.values())


def _machines(folder: Path, sections: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each machine with its versions, once, and the sections whose results it computed."""
    pages: dict[str, list[str]] = {}
    for section in sections:
        path = folder / section["provenance"]
        for machine in _origin(path).get("machines", []):
            pages.setdefault(json.dumps(machine, indent=1, sort_keys=True), []).append(section["name"])
    return [{"text": text, "pages": names} for text, names in pages.items()]
