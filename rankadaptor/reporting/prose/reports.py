"""The committed reports that templates read: CSV, provenance and records of benchmarks, each file once."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from rankadaptor.data.text import read_text
from rankadaptor.errors import BadInput
from rankadaptor.profiles import load_profile

named_profile = cache(load_profile)  # those of the package, which templates name, do not change while they are rendered


class Reports:
    """A folder of reports. Names are paths in it without their endings, such as `tiny/table2-differences`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.table = cache(self._table)
        self.record = cache(self._record)

    def has(self, *names: str) -> bool:
        """Whether the CSV files of all of these names are there."""
        return all((self.folder / f"{name}.csv").is_file() for name in names)

    def _table(self, name: str) -> pd.DataFrame:
        """A CSV file."""
        return pd.read_csv(self._path(f"{name}.csv"))

    def _record(self, name: str) -> dict[str, Any]:
        """A JSON file."""
        content: dict[str, Any] = json.loads(read_text(self._path(f"{name}.json")))
        return content

    def _path(self, name: str) -> Path:
        if not (path := self.folder / name).is_file():
            raise BadInput(f"there is no {path}: make the report, or guard the sentence with has(...)")
        return path

    def rows(self, name: str, **values: str | int | float) -> pd.DataFrame:
        """The rows of a table whose columns have these values.

        Raises:
            BadInput: if there is no such row.
        """
        table = self.table(name)
        for column, value in values.items():
            table = table[table[column] == value]
        if table.empty:
            named = ", ".join(f"{column} {value}" for column, value in values.items())
            raise BadInput(f"{name} has no row with {named}: name one that it has")
        return table

    def row(self, name: str, **values: str | int | float) -> pd.Series:
        """The one row of a table whose columns have these values.

        Raises:
            BadInput: if there is none, or more than one.
        """
        rows = self.rows(name, **values)
        if len(rows) > 1:
            raise BadInput(f"{name} has {len(rows)} rows with {', '.join(map(str, values.values()))}: name one")
        return rows.iloc[0]
