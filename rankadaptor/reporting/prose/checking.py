"""Figures in prose that no record holds: numbers in the literal text of templates and documents that look measured.

What may stand there all the same (a convention, a statement of the paper, a version, a setting of code) is listed with
its source in `docs/templates/settings.yaml`: document -> phrase -> where it comes from; `everywhere` is for all.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from jinja2 import Environment

from rankadaptor.errors import BadInput
from rankadaptor.reporting.prose.rendering import END, START, document, rendered, templates_folder

SETTINGS, EVERYWHERE = "settings.yaml", "everywhere"

_WORD = (r"two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fifteen|sixteen|twenty|thirty|forty|fifty|sixty|"
         r"ninety|hundred|thousand|half\ an?|a\ quarter\ of\ an")
_DIGITS = r"\d+(?:,\d{3})*(?:\.\d+)?"
_NUMBER = rf"(?:{_DIGITS}|\b(?:{_WORD})\b)"
_UNIT = (r"seconds?|minutes?|hours?|days?|weeks?|ms|s|GB|MB|GiB|MiB|KiB|GFLOP/s|points?|nats|times|fold|"
         r"per\s?cent|percent|tokens?\s+a\s+second")
_RESULT = (r"blocks|intervals|searches|rivals|comparisons|allocations|recoveries|seeds|evaluations|items|questions|"
           r"trainings|predictions|changes|verdicts|pruned\s+models|variants|kills")
_FIGURE = re.compile(rf"""(?<![\w.:])(?:
    (?<!\d)[+\-−]{_DIGITS}(?:\s?%)?                        # signed
  | (?<!Section\ )(?<!Sections\ )\d+(?:,\d{{3}})*\.\d+(?:e-?\d+)?(?:\s?%)?    # decimals
  | \d+e-?\d+(?!\w)                                       # powers of ten
  | {_DIGITS}\s?%                                          # percentages
  | \d{{1,3}}(?:,\d{{3}})+                                 # thousands
  | {_NUMBER}(?:\s+(?:to|or)\s+{_NUMBER})?[\s-]+(?:{_UNIT})\b    # with a unit
  | {_NUMBER}\s+of\s+(?:the\s+)?{_NUMBER}                  # shares
  | {_NUMBER}\s+(?:\w+\s+)?(?:{_RESULT})\b                 # counts of results
)""", re.VERBOSE | re.IGNORECASE)
_BLANKED = re.compile(r"""
    ^```.*?^```$ | ^<!--.*?-->$ | `[^`]*` | \]\([^)]*\) | <https?:[^>]*> | https?://\S+ | ^\#\ [^\n]*
""", re.VERBOSE | re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Figure:
    """A number in a document that looks measured."""

    place: str  # the file, from the project's folder
    text: str
    context: str  # the words around it

    def __str__(self) -> str:
        return f"{self.place}: {self.text!r} in {self.context!r}"


@dataclass(frozen=True)
class Allowed:
    """The phrases that a document may hold, and where each comes from."""

    phrases: dict[str, dict[str, str]]  # document, or `everywhere` -> phrase -> source

    @classmethod
    def read(cls, project: Path) -> "Allowed":
        """The project's list.

        Raises:
            BadInput: if it is no mapping of documents to phrases with sources.
        """
        path = templates_folder(project) / SETTINGS
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not all(
                isinstance(phrases, dict) and all(isinstance(part, str) and part for pair in phrases.items()
                                                  for part in pair) for phrases in content.values()):
            raise BadInput(f"{path} is no mapping from documents to phrases with their sources: mend it")
        return cls(content)

    def of(self, name: str) -> list[str]:
        """The phrases of one document, the longest first."""
        phrases = [*self.phrases.get(EVERYWHERE, {}), *self.phrases.get(name, {})]
        return sorted(phrases, key=len, reverse=True)


def unsupported(project: Path, allowed: Allowed) -> list[Figure]:
    """Figures in the literal text of templates, and in documents without a template, that are not allowed."""
    return [figure for name, text in literal_texts(project).items() for figure in _figures(name, text, allowed)]


def literal_texts(project: Path) -> dict[str, str]:
    """Document -> its text, of templates without what expressions give."""
    folder = templates_folder(project)
    texts = {path.name: _literal(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.md"))}
    others = [path for path in sorted((project / "docs").glob("*.md")) if path.name not in texts]
    return texts | {path.name: path.read_text(encoding="utf-8") for path in others}


def _literal(template: str) -> str:
    """The text between expressions, and the texts within them that look like figures."""
    parts, strings = [], []
    for _, kind, value in Environment().lex(template):
        if kind == "data":
            parts.append(value)
        elif kind == "variable_begin":
            parts.append("▯")
        elif kind == "string":
            strings.append(str(value)[1:-1])
    return "".join(parts) + "\n\n" + "\n\n".join(f"{text} ." for text in strings)


def unrecorded(project: Path, allowed: Allowed) -> tuple[list[Figure], list[Figure]]:
    """Figures of rendered documents, outside code and addresses.

    Returns:
        All of them, and those that neither an expression gave nor the list allows.
    """
    every: list[Figure] = []
    wrong: list[Figure] = []
    for path, marked in rendered(project, marked=True).items():
        text, given = _unmarked(marked)
        name = Path(path).name
        shown = _blanked(text)
        free = _without(shown, allowed.of(name))
        for match in _FIGURE.finditer(shown):
            numbers = re.finditer(_NUMBER, match[0], re.IGNORECASE)
            positions = [match.start() + place for number in numbers for place in range(number.start(), number.end())]
            every.append(_figure(path, shown, match))
            if not all(given[place] or free[place] == " " for place in positions):
                wrong.append(every[-1])
    return every, wrong


def _unmarked(marked: str) -> tuple[str, list[bool]]:
    """A text without its marks, and of each character whether an expression gave it."""
    characters, given, depth = [], [], 0
    for character in marked:
        if character in (START, END):
            depth += 1 if character == START else -1
        else:
            characters.append(character)
            given.append(depth > 0)
    return "".join(characters), given


def unmatched(project: Path, allowed: Allowed) -> list[str]:
    """Entries of the list that no document holds."""
    texts = {name: _blanked(text) for name, text in literal_texts(project).items()}
    lines = []
    for name, phrases in allowed.phrases.items():
        if name != EVERYWHERE and name not in texts:
            lines.append(f"{name} is no document")
            continue
        where = texts.values() if name == EVERYWHERE else [texts[name]]
        lines += [f"{name}: {phrase}" for phrase in phrases if not any(_pattern(phrase).search(text) for text in where)]
    return lines


def _figures(name: str, text: str, allowed: Allowed) -> Iterator[Figure]:
    shown = _without(_blanked(text), allowed.of(name))
    for match in _FIGURE.finditer(shown):
        yield _figure(document(name), shown, match)


def _figure(place: str, text: str, match: re.Match[str]) -> Figure:
    context = text[max(0, match.start() - 40) : match.end() + 40]
    return Figure(place, " ".join(match[0].split()), " ".join(context.split()))


def _blanked(text: str) -> str:
    """A text of the same length, with spaces in place of code, comments, addresses and the title."""
    return _BLANKED.sub(lambda match: re.sub(r"\S", " ", match[0]), text)


def _without(text: str, phrases: list[str]) -> str:
    """A text of the same length, with spaces in place of phrases."""
    for phrase in phrases:
        text = _pattern(phrase).sub(lambda match: re.sub(r"\S", " ", match[0]), text)
    return text


def _pattern(phrase: str) -> re.Pattern[str]:
    """A phrase, over the ends of lines; not within a longer number or word."""
    words = r"\s+".join(map(re.escape, phrase.split()))
    return re.compile(rf"(?<![\w.+\-−]){words}(?!\w|[.,]\d)")
