"""The pages that can be made: each a notebook, the object that knows what it needs, and what may be said of it."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from rankadaptor.errors import BadInput
from rankadaptor.profiles import Profile

_RUNS = ("profile", "blocks", "ledger", "budget", "seeds")
_TABLES = (*_RUNS, "benchmarks", "recovery_data", "allocation")
_TABLE = "experiments.main_table.main_table"
_ABLATIONS = "experiments.ablations.ablation_tables"
_BLOCK = {"blocks": "llm-pruner:20"}  # of Figure 2 and of Tables 1 and 3
_AT_ONCE = 2  # pages that are only drawn
_OWN_BLOCKS = ("ablations", "pruning", "search")  # pages that stay with their own when all are made


class Work(Protocol):
    """What a page needs."""

    profile: Profile

    def plan(self) -> object: ...

    def is_complete(self) -> bool:
        """Whether nothing is left to recover or to evaluate, and the page is only drawn."""


@dataclass(frozen=True)
class Page:
    notebook: str
    door: str  # function of this package that gives the page's work; imported when it is called: torch takes seconds
    options: tuple[str, ...]  # that the command line may give
    fixed: Mapping[str, Any] = field(default_factory=dict)  # parameters that make the page what it is
    defaults: Mapping[str, Any] = field(default_factory=dict)  # in place of an option that is empty
    named: str = ""  # of the executed copy, where several pages share a notebook
    label: str = ""  # of the page's files, where its notebook asks for it


PAGES = {
    "figure2": Page("01_motivating_example", _TABLE, _TABLES, {"table": "figure2"}, _BLOCK),
    "table1": Page("02_adalora_comparison", _TABLE, _TABLES, {"table": "table1"}, _BLOCK),
    "table2": Page("03_main_tables", _TABLE, _TABLES, {"table": "table2"}),
    "table4": Page("03_main_tables", _TABLE, _TABLES, {"table": "table4"}, named=".table4"),
    "table5": Page("03_main_tables", _TABLE, _TABLES, {"table": "table5"}, named=".table5"),
    "table6": Page("03_main_tables", _TABLE, _TABLES, {"table": "table6"}, named=".table6"),
    "ablations": Page("04_ablations", _ABLATIONS, (*_RUNS, "ablation"), {}, _BLOCK, label="ablations"),
    "table3": Page("04_ablations", _ABLATIONS, (*_RUNS, "ablation"), {},
                   _BLOCK | {"ablation": "table3"}, ".table3", "table3"),
    "figure5": Page("05_generation", _TABLE, _TABLES, {"table": "figure5"}, _BLOCK),
    "search": Page("06_search", "reporting.search_page.search_page", ("profile", "blocks", "ledger", "rank_table")),
    "testbed": Page("07_testbed", "experiments.testbed_quality.instrument", _RUNS),
    "pruning": Page("08_pruning", "experiments.pruned_models.pruned_models", ("profile", "blocks", "ledger")),
    "rivals": Page("09_rivals", "experiments.rival_table.rival_table", _RUNS),
}

# In this order, later ones find what earlier ones computed. The search is replayed on the embedded model's table.
OF_ALL = ("table2", "table6", "figure2", "table1", "figure5", "ablations", "pruning", "search")


def plan(name: str, given: Mapping[str, Any]) -> object:
    """What a page needs, what is missing and what that costs; print it.

    Args:
        name: One of `PAGES`.
        given: Options, by name; empty ones count as not given.

    Raises:
        BadInput: on anything unknown, or on an option that the page does not know.
    """
    return _work(name, given).plan()


def reproduce(name: str, given: Mapping[str, Any], reports: Path | str, quiet: bool = False) -> Path:
    """Compute what a page lacks and draw it; returns the executed notebook, which stands beside its files.

    Args:
        reports: Folder of all profiles' reports.
        quiet: Whether what the notebook prints is kept in the executed copy alone.

    Raises:
        BadInput: as `plan` does, and where only the run finds out, such as a wrong hash.
        papermill.PapermillExecutionError: if the notebook failed.
    """
    from papermill import PapermillExecutionError

    from rankadaptor.reporting.notebooks import run_notebook

    page, folder = PAGES[name], Path(reports) / _work(name, given).profile.name
    executed = folder / f"{page.notebook}{page.named}.ipynb"
    parameters = _parameters(page, given) | {"reports": str(folder)} | ({"name": page.label} if page.label else {})
    if page.fixed and page.notebook != "03_main_tables":
        del parameters["table"]  # the notebook's own
    try:
        run_notebook(page.notebook, executed, parameters, quiet)
    except PapermillExecutionError as error:
        if error.ename == BadInput.__name__:
            raise BadInput(error.evalue) from None
        raise
    return executed


def reproduce_all(given: Mapping[str, Any], reports: Path | str, on_page: Callable[[str, Path], None]) -> None:
    """Every page of `OF_ALL`: those that lack something one after the other, then the rest, two at a time.

    Args:
        given: Options; each page takes those that it knows. Blocks are those of tables and figures.
        on_page: Called with the name of a page that is done and its executed notebook.

    Raises:
        As `reproduce` does.
    """
    options = {name: {key: value for key, value in given.items() if key in PAGES[name].options} for name in OF_ALL}
    for name in _OWN_BLOCKS:
        options[name].pop("blocks", None)
    wanted = [name for name in OF_ALL if name != "search" or given.get("profile", "tiny") == "tiny"]
    complete = []
    for name in wanted:
        if _work(name, options[name]).is_complete():
            complete.append(name)
        else:
            on_page(name, reproduce(name, options[name], reports))
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        drawn = {name: threads.submit(reproduce, name, options[name], reports, quiet=True) for name in complete}
        for name, one in drawn.items():
            on_page(name, one.result())


def _work(name: str, given: Mapping[str, Any]) -> Work:
    page = PAGES[name]
    if strange := [key for key, value in given.items() if value and key not in page.options]:
        value = given[strange[0]]
        shown = value if isinstance(value, str) else " ".join(map(str, value))
        raise BadInput(f"{strange[0]} {shown!r} was given for {name}, which knows no such thing: leave it away")
    module, _, function = page.door.rpartition(".")
    work: Work = getattr(import_module(f"rankadaptor.{module}"), function)(**_parameters(page, given))
    return work


def _parameters(page: Page, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the page's door takes; what is not said is the door's own."""
    parameters = {**page.defaults, **{key: value for key, value in given.items() if value}, **page.fixed}
    if "rank_table" in parameters:
        parameters["table"] = parameters.pop("rank_table")
    return parameters
