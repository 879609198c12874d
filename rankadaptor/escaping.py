"""Text as HTML, Markdown and LaTeX show it: what a user or a model wrote is never markup of a report.

One function a form; every writer of reports passes all text through it that is not its own markup. Text of letters,
digits and common punctuation stays as it is.
"""

import html
import re

# Characters that join letters of Persian and Indic scripts, and emojis; no other character without a shape is shown.
_JOINERS = "\u200c\u200d"
_UNKNOWN = "\ufffd"

_MARKDOWN = re.compile(
    r"""[\\`|<~$]                       # escapes, code, columns, HTML, strike-through, formulas
    | &(?=\#?\w+;)                      # an entity
    | \](?=[(\[:])                      # a link, an image, or where one leads
    | :(?=//) | (?<=\b(?i:www))\.       # addresses, which many readers make links of
    | \*(?=[\w*]) | (?<![^\W_])\*      # emphasis; the star of LoRA* is none
    | (?<![^\W_])_ | _(?![^\W_])        # emphasis; the line within acc_norm is none
    | ^(?:\#|[-+*=](?=\s|[-+*=]|$)|\d+[.)](?=\s))  # headings, rules and lists
    """, re.VERBOSE)
_LATEX = {character: f"\\{character}" for character in "_&#%${}"} | {
    "\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}",
}


class Markup(str):
    """A cell that is Markdown already. A column of them needs dtype object: pandas turns others into plain text."""


def one_line(text: object) -> str:
    """A text on one line: its ends of lines are spaces, and what has no shape is shown as unknown."""
    return "".join(_visible(character) for character in str(text))


def _visible(character: str) -> str:
    if character.isprintable() or character in _JOINERS:
        return character
    return " " if character.isspace() else _UNKNOWN


def html_text(text: object) -> str:
    """A text as HTML, its lines apart; within Markdown, where a blank line would end the HTML, it is one line."""
    lines = re.split(r"\r\n|[\n\r]", str(text))
    return "<br>".join(html.escape(one_line(line)) for line in lines)


def markdown_text(text: object) -> str:
    """A text as one line of Markdown that renders as itself; also within a table and in HTML made of it."""
    return _MARKDOWN.sub(lambda match: "".join(map(_entity, match[0])), one_line(text))


def bold_markdown(text: object) -> str:
    """A text as one line of Markdown in bold; no star of its own ends that."""
    return f"**{markdown_text(text).strip().replace('*', _entity('*'))}**"


def _entity(character: str) -> str:
    return f"&#{ord(character)};"


def latex_text(text: object) -> str:
    """A text as one line of LaTeX that prints as itself; at the start of a table's row as well."""
    line = one_line(text)
    escaped = "".join(_LATEX.get(character, character) for character in line)
    return f"{{{line[0]}}}{escaped[1:]}" if line.startswith(("[", "*")) else escaped
