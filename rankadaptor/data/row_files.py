"""Rows of JSON files: one reader for benchmarks and for instruction rows.

What a file holds is seen from its content, not from its name: a JSON list of rows, or rows one after another as in
JSON lines, compressed by gzip or not. Blank lines, CRLF and a byte order mark of UTF-8 do not matter.
"""

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rankadaptor.data.hub_schema import shown
from rankadaptor.errors import BadInput
from rankadaptor.testbed import Row

_GZIP = b"\x1f\x8b"
# What files of other kinds begin with. UTF-32 first: its mark begins as that of UTF-16 does.
_OTHER_KINDS = {
    b"\xff\xfe\0\0": "UTF-32 text", b"\0\0\xfe\xff": "UTF-32 text", b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text", b"PAR1": "a Parquet file", b"PK\x03\x04": "a zip archive",
    b"\x28\xb5\x2f\xfd": "compressed by zstd", b"BZh": "compressed by bzip2", b"\xfd7zXZ": "compressed by xz",
}
_SPACE = re.compile(r"[ \t\r\n]*")  # what JSON has between values
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # two of these are one character, a single one is none


def read_rows(path: Path, check: Callable[[Row], Row | None]) -> list[Row]:
    """Every row of a file, checked.

    Args:
        check: Row as the file holds it -> the row to use, or None to pass it over. Raises BadInput where the row cannot
            be used, and the error gets the row's place: its line, or its number in a JSON list.

    Raises:
        BadInput: if the file cannot be read, is no JSON in UTF-8, or a row is no object or does not pass the check.
    """
    content = _content(path)
    text = _text(path, content)
    start = _after_space(text, 0)
    is_list = text.startswith("[", start)
    values = enumerate(_members(path, text, start), 1) if is_list else _values(path, text, start)
    may_hold_surrogates = _SURROGATE.search(content) is not None
    rows = []
    for place, value in values:
        try:
            if not isinstance(value, dict):
                raise BadInput(f"the row is {shown(value)}: give a JSON object with named fields")
            row = check(value)
            if row is not None and may_hold_surrogates:
                _check_characters(row)
        except BadInput as error:
            raise BadInput(f"{f'row {place}' if is_list else _line(text, place)} of {path}: {error}") from None
        if row is not None:
            rows.append(row)
    return rows


def _content(path: Path) -> bytes:
    """Bytes of a file, decompressed."""
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(_GZIP) else content
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"cannot read {path} ({error}): give a whole file of JSON lines, plain or compressed by gzip"
                       ) from None


def _text(path: Path, content: bytes) -> str:
    """Text of a file's content, without a byte order mark."""
    for beginning, kind in _OTHER_KINDS.items():
        if content.startswith(beginning):
            raise BadInput(f"{path} is {kind}: convert it to JSON lines in UTF-8")
    if b"\0" in content[:4]:  # of UTF-16 without a mark; no JSON text holds a zero byte
        raise BadInput(f"{path} begins with zero bytes, as UTF-16 text does: convert it to JSON lines in UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BadInput(f"line {line} of {path} is not UTF-8 text (byte {error.start} of the file): convert it to UTF-8"
                       ) from None


def _values(path: Path, text: str, start: int) -> Iterator[tuple[int, Any]]:
    """The values that follow one another in a text, each with its position."""
    decode, skip = json.JSONDecoder().raw_decode, _SPACE.match
    while start < len(text):
        try:
            value, end = decode(text, start)
        except (ValueError, RecursionError):
            raise BadInput(f"{_line(text, start)} of {path} is not JSON ({shown(text[start : start + 40])}): mend or"
                           " remove it") from None
        yield start, value
        start = skip(text, end).end()  # type: ignore[union-attr]  # it matches no space, too


def _members(path: Path, text: str, start: int) -> list[Any]:
    """Members of the JSON list that is the whole text from `start` on."""
    try:
        members, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        fault = error.pos if isinstance(error, json.JSONDecodeError) else start
        raise BadInput(f"{_line(text, fault)} of {path} breaks the JSON list that the file begins as: mend it, or give"
                       " JSON lines") from None
    if (rest := _after_space(text, end)) < len(text):
        raise BadInput(f"{_line(text, rest)} of {path} follows the end of a JSON list: give one list of all rows, or"
                       " JSON lines")
    return members


def _after_space(text: str, position: int) -> int:
    return _SPACE.match(text, position).end()  # type: ignore[union-attr]  # it matches no space, too


def _line(text: str, position: int) -> str:
    number = text.count("\n", 0, position) + 1
    return f"line {number}"


def _check_characters(row: Row) -> None:
    """Raises BadInput where text cannot be written as UTF-8, which tokenizers and tables of rows read."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise BadInput(f"text holds half a surrogate pair ({shown(error.object[error.start])}): remove it") from None
