"""Documents from their templates: README.md and docs/NAME.md from docs/templates/NAME.md."""

import os
import traceback
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateSyntaxError

from rankadaptor.errors import BadInput, cut
from rankadaptor.experiments import methods
from rankadaptor.experiments.paths import project_folder
from rankadaptor.files import scratch_beside
from rankadaptor.reporting.prose.pages import Pages, Paper
from rankadaptor.reporting.prose.recorded import Recorded
from rankadaptor.reporting.prose.reports import Reports
from rankadaptor.reporting.prose.searches import Searches, Testbed
from rankadaptor.reporting.prose.speeds import Speeds
from rankadaptor.reporting.prose.tables import Ablations, Accuracies, Differences
from rankadaptor.reporting.prose.words import WORDS

START, END = "\ue000", "\ue001"  # around what an expression gave, where a check wants to know; of no alphabet
_NAMES = ("RANKADAPTOR", "RANKADAPTOR_PER_TASK", "LORA", "LORA_STAR", "MIRROR", "SHUFFLED", "ADALORA", "NO_RECOVERY",
          "DENSE", "DAMAGE", "EVA", "BEST_SEED", "TUNED")  # labels of methods, as templates name them


def render_prose(project: Path | None = None) -> list[Path]:
    """Write every document that has a template. A document that would not change is left alone.

    Args:
        project: The checkout; by default this package's.

    Returns:
        The documents, README.md first.

    Raises:
        BadInput: in one line that names template and line, if an expression asks for what no record holds.
    """
    project = project or project_folder()
    documents = {project / name: text for name, text in rendered(project).items()}
    for path, text in documents.items():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        with scratch_beside(path) as scratch:
            (scratch / path.name).write_text(text, encoding="utf-8")
            os.replace(scratch / path.name, path)
    return list(documents)


def rendered(project: Path, marked: bool = False) -> dict[str, str]:
    """Path in the project -> text, of every document that has a template.

    Args:
        marked: Whether what expressions gave stands between START and END.

    Raises:
        BadInput: as `render_prose`.
    """
    environment = prose_environment(project, marked)
    return {document(name): _note(name) + _render(environment, name)
            for name in environment.list_templates(extensions=["md"])}


def document(template: str) -> str:
    """Path in the project of what a template is rendered to."""
    return template if template == "README.md" else f"docs/{template}"


def templates_folder(project: Path) -> Path:
    """The folder of templates."""
    return project / "docs" / "templates"


def prose_environment(project: Path, marked: bool = False) -> Environment:
    """Jinja with the vocabulary of templates: labels of methods, and the public methods of the classes below.

    Args:
        marked: As in `rendered`.
    """
    environment = Environment(
        loader=FileSystemLoader(templates_folder(project)), undefined=StrictUndefined, autoescape=False,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        finalize=_mark if marked else None,
    )
    reports = Reports(project / "reports")
    environment.globals.update({name: getattr(methods, name) for name in _NAMES} | WORDS)
    for vocabulary in (Differences(reports), Accuracies(reports), Ablations(reports), Pages(reports), Paper(),
                       Searches(reports), Testbed(reports), Speeds(reports),
                       Recorded(project / "records")):
        environment.globals.update({name: getattr(vocabulary, name) for name in dir(vocabulary) if name[0] != "_"})
    return environment


def _note(template: str) -> str:
    return f"<!-- made from docs/templates/{template} by make reports: edit that -->\n"


def _mark(value: Any) -> str:
    return f"{START}{value}{END}"


def _render(environment: Environment, name: str) -> str:
    try:
        return environment.get_template(name).render()
    except TemplateSyntaxError as error:
        raise BadInput(f"docs/templates/{name}, line {error.lineno}: {error.message}: mend the template") from None
    except Exception as error:  # whatever an expression meets is told as a fault of its line
        filename = environment.get_template(name).filename
        lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == filename]
        number = (lines[-1].lineno or 1) if lines else 1
        asked_for = Path(str(filename)).read_text(encoding="utf-8").splitlines()[number - 1].strip()
        raise BadInput(f"docs/templates/{name}, line {number}: {error}: in {cut(asked_for)}") from error
