"""One reader of rows: the form of a file is seen from its content, and errors name the place."""

import gzip
import json

import pytest

from rankadaptor.data.row_files import read_rows
from rankadaptor.errors import BadInput

ROWS = [{"a": "one\u2028two\u0085three\x0b"}, {"a": "né 😀"}, {"a": "last"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


@pytest.mark.parametrize("content", [
    pytest.param(LINES, id="json lines"),
    pytest.param(LINES[:-1], id="no newline at the end"),
    pytest.param("\n\n \t\n" + LINES.replace("\n", "\n\n") + "\r\n", id="blank lines"),
    pytest.param(LINES.replace("\n", "\r\n"), id="crlf"),
    pytest.param("\ufeff" + LINES, id="byte order mark"),
    pytest.param("".join(json.dumps(row, indent=1) for row in ROWS), id="indented objects"),
    pytest.param("".join(json.dumps(row) + "\n" for row in ROWS), id="escaped surrogate pairs"),
    pytest.param(json.dumps(ROWS), id="list"),
    pytest.param("\ufeff" + "\n " + json.dumps(ROWS, indent=2) + "\n\n", id="indented list with a mark"),
])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_every_form_gives_the_same_rows(content, compress, tmp_path):
    for name in ("rows.jsonl", "rows.JSON", "rows.json.gz", "rows"):
        (tmp_path / name).write_bytes(compress(content.encode()))
        assert read_rows(tmp_path / name, lambda row: row) == ROWS


def test_checks_change_rows_pass_over_them_or_name_their_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n" + LINES)
    assert read_rows(path, lambda row: row | {"b": 1} if row["a"] == "last" else None) == [{"a": "last", "b": 1}]

    def check(row):
        if row["a"] == "last":
            raise BadInput("a is last: give another")
        return row

    with pytest.raises(BadInput, match=f"^line 4 of {path}: a is last: give another$"):
        read_rows(path, check)
    path.write_text(json.dumps(ROWS))
    with pytest.raises(BadInput, match=f"^row 3 of {path}: a is last: give another$"):
        read_rows(path, check)


@pytest.mark.parametrize(("content", "says"), [
    pytest.param(LINES.encode("utf-16"), "is UTF-16 text: convert it to JSON lines in UTF-8", id="UTF-16"),
    pytest.param(LINES.encode("utf-16-le"), "begins with zero bytes, as UTF-16 text does: convert it to JSON",
                 id="UTF-16 little-endian without a mark"),
    pytest.param(LINES.encode("utf-16-be"), "begins with zero bytes, as UTF-16 text does",
                 id="UTF-16 big-endian without a mark"),
    pytest.param(LINES.encode("utf-32"), "is UTF-32 text", id="UTF-32"),
    pytest.param(b'{"a": "b"}\n{"a": "\xe9"}\n', "line 2 of .* is not UTF-8 text .byte 18 of the file.: convert it",
                 id="Latin-1"),
    pytest.param(gzip.compress(LINES.encode())[:-9], "cannot read .*: give a whole file", id="a cut gzip"),
    pytest.param(b"\x1f\x8bno gzip", "cannot read .*: give a whole file", id="no gzip"),
    pytest.param(b"PAR1....", "is a Parquet file: convert it", id="Parquet"),
    pytest.param(b"PK\x03\x04...", "is a zip archive: convert it", id="zip"),
    pytest.param(b'{"a": 1}\n{"a": \n{"a": 2}', r'line 2 of .* is not JSON \("\{\\"a\\": .*: mend or remove it',
                 id="a cut line"),
    pytest.param(b'{"a": 1},\n{"a": 2}', "line 1 of .* is not JSON", id="commas between lines"),
    pytest.param(b'[{"a": 1},\n{"a": 2},\n{"a" 3}]', "line 3 of .* breaks the JSON list that the file begins as",
                 id="a broken list"),
    pytest.param(b'[{"a": 1}]\n[{"a": 2}]', "line 2 of .* follows the end of a JSON list", id="two lists"),
    pytest.param(b'{"a": 1}\n"text"', 'line 2 of .*: the row is "text": give a JSON object', id="a value among rows"),
    pytest.param(b'[{"a": 1}, null]', "row 2 of .*: the row is null: give a JSON object", id="null in a list"),
    pytest.param(b'{"a": "\\ud83d"}', "line 1 of .*: text holds half a surrogate pair", id="high half"),
    pytest.param(b'{"a": "\\uDE00"}', "line 1 of .*: text holds half a surrogate pair", id="low half"),
    pytest.param(b'{"a": ' * 100_000, "line 1 of .* is not JSON", id="deep objects"),
    pytest.param(b"[" * 100_000, "line 1 of .* breaks the JSON list", id="deep lists"),
    pytest.param(b'{"a": ' + b"9" * 5000 + b"}", "line 1 of .* is not JSON", id="an endless number"),
])
def test_what_cannot_be_read_is_told_in_one_line(content, says, tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(BadInput, match=says) as error:
        read_rows(tmp_path / "rows.jsonl", lambda row: row)
    assert "\n" not in str(error.value)
