"""The pages that can be made: each a notebook, the object that does its work, and the parameters that it takes.

A page of one's own is a notebook with a `parameters` cell, and one `register(Page(...))`.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rankadaptor
from rankadaptor.errors import BadInput
from rankadaptor.experiments.parameters import named_profile
from rankadaptor.experiments.paths import run_folder
from rankadaptor.files import hand_down_digests
from rankadaptor.plugins import add_entry

if TYPE_CHECKING:
    from rankadaptor.experiments.plan import Plan
    from rankadaptor.experiments.skeleton import Planned

_RUNS = ("profile", "blocks", "ledger", "budget", "seeds")
_TABLES = (*_RUNS, "benchmarks", "recovery_data", "allocation")
_BLOCK = {"blocks": "llm-pruner:20"}  # of Figure 2 and of Tables 1 and 3
_AT_ONCE = 2  # pages that are only drawn


@dataclass(frozen=True)
class Page:
    """One page.

    Attributes:
        name: Of the page on the command line.
        title: Of the page in its help.
        notebook: Its file in notebooks/, without the ending.
        work: The function of `rankadaptor` that gives the page's work: `plan()`, `run()` and `is_complete()`.
        options: Parameters of that function which the command line may give.
        fixed: Parameters that make the page what it is.
        defaults: In place of options that are empty.
        suffix: Of the executed copy, where several pages share a notebook.
        label: Of the page's files, where its notebook takes one as `name`.
        of_all: Whether the page belongs to `reproduce all`.
        own_budget: What `work` is computed with where neither the command line nor the profile names a budget.
        own_blocks: Whether `reproduce all` leaves the page its own blocks.
        only_profile: Of `reproduce all`, the one profile that the page is made for; empty for every one.
    """

    name: str
    title: str
    notebook: str
    work: str
    options: tuple[str, ...]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    suffix: str = ""
    label: str = ""
    own_budget: str = "quick"
    of_all: bool = False
    own_blocks: bool = False
    only_profile: str = ""

    def parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What `work` is called with; parameters that are not there are its own defaults."""
        parameters = {**self._of_profile(given), **self.defaults,
                      **{key: value for key, value in given.items() if value}, **self.fixed}
        if "rank_table" in parameters:
            parameters["table"] = parameters.pop("rank_table")
        return parameters

    def _of_profile(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The profile's defaults, of a page that takes a budget."""
        name = given.get("profile")
        if not name or "budget" not in self.options or (defaults := rankadaptor.load_profile(name).defaults) is None:
            return {}
        return {"budget": defaults.budget, "blocks": " ".join(defaults.blocks)}


PAGES: dict[str, Page] = {}


def register(page: Page) -> None:
    """Add a page.

    Raises:
        BadInput: if there is a page of that name.
    """
    add_entry(PAGES, "page", page.name, page)


# `reproduce all` makes pages in this order: later ones read what earlier ones computed.
for _page in (
    Page("table2", "Table 2: LoRA, LoRA*, AdaLoRA and RankAdaptor", "03_main_tables", "main_table", _TABLES,
         {"table": "table2"}, of_all=True),
    Page("table4", "the rows of Table 2 beside Table 4, Vicuna-7B", "03_main_tables", "main_table", _TABLES,
         {"table": "table4"}, suffix=".table4"),
    Page("table5", "the rows of Table 2 beside Table 5, LLaMA-13B", "03_main_tables", "main_table", _TABLES,
         {"table": "table5"}, suffix=".table5"),
    Page("table6", "Table 6: pruned models without recovery", "03_main_tables", "main_table", _TABLES,
         {"table": "table6"}, suffix=".table6", of_all=True),
    Page("figure2", "Figure 2: LoRA against LoRA* and controls", "01_motivating_example", "main_table", _TABLES,
         {"table": "figure2"}, _BLOCK, of_all=True),
    Page("table1", "Table 1: LoRA against AdaLoRA", "02_adalora_comparison", "main_table", _TABLES,
         {"table": "table1"}, _BLOCK, of_all=True),
    Page("figure5", "Figures 5 and 6: what recovered models write", "05_generation", "main_table", _TABLES,
         {"table": "figure5"}, _BLOCK, of_all=True),
    Page("ablations", "all ablations, or some", "04_ablations", "ablation_tables", (*_RUNS, "ablation"),
         {}, _BLOCK, label="ablations", of_all=True, own_blocks=True),
    Page("table3", "Table 3: its four ablations", "04_ablations", "ablation_tables", (*_RUNS, "ablation"),
         {}, _BLOCK | {"ablation": "table3"}, ".table3", "table3"),
    Page("pruning", "which units pruning takes, and what that costs", "08_pruning", "pruned_models",
         ("profile", "blocks", "ledger"), of_all=True, own_blocks=True),
    Page("search", "searches and their rivals, replayed", "06_search", "search_page",
         ("profile", "blocks", "ledger", "rank_table"), of_all=True, own_blocks=True, only_profile="tiny"),
    Page("testbed", "what can be measured on a profile", "07_testbed", "testbed_quality", _RUNS,
         own_budget="standard"),
    Page("headroom", "what pruning takes and LoRA wins back", "10_headroom", "main_table", _TABLES,
         {"table": "headroom"}),
    Page("ceiling", "LoRA with a small and a large rank in every layer", "10_headroom", "main_table", _TABLES,
         {"table": "ceiling"}, suffix=".ceiling"),
    Page("paper", "the paper's protocol, for its search and for what finds nothing", "11_protocol", "paper_protocol",
         _RUNS, own_budget="standard"),
    Page("rivals", "rivals of the search, really recovered", "09_rivals", "rival_table", _RUNS, own_budget="standard"),
):
    register(_page)


def plan(name: str, given: Mapping[str, Any]) -> "Plan":
    """What a page needs, what is missing and what that costs; print it.

    Args:
        name: One of `PAGES`.
        given: Options by name; empty ones count as not given.

    Raises:
        BadInput: on anything unknown, or on an option that the page does not have.
    """
    return work(name, given).plan()


def run_folder_of(name: str, given: Mapping[str, Any], reports: Path | str) -> Path:
    """REPORTS/PROFILE/BUDGET, where a run of a page writes; the profile's default budget of a page that takes none.

    Args:
        name: One of `PAGES`, or `all`, whose pages share one folder.
        given: As `plan` takes them.
        reports: Folder of all profiles' reports.

    Raises:
        BadInput: on an unknown profile or budget, or on an option that the page does not have.
    """
    if name == "all":
        budget = given.get("budget", "")
    else:
        _check_options(name, given)
        page = PAGES[name]
        budget = page.parameters(given).get("budget", page.own_budget if "budget" in page.options else "")
    return run_folder(reports, named_profile(given.get("profile")), budget)


def reproduce(name: str, given: Mapping[str, Any], folder: Path | str, quiet: bool = False) -> Path:
    """Compute what a page lacks and draw it; returns the executed notebook, which stands beside its files.

    Args:
        folder: Of the page's files.
        quiet: Whether what the notebook prints goes into the executed copy alone.

    Raises:
        BadInput: as `plan` does, and on what only the run finds out, such as a wrong hash.
        papermill.PapermillExecutionError: if the notebook failed.
    """
    from papermill import PapermillExecutionError

    from rankadaptor.reporting.notebooks import declared_parameters, run_notebook

    page = PAGES[name]
    work(name, given)  # raises before a kernel starts
    executed = Path(folder) / f"{page.notebook}{page.suffix}.ipynb"
    parameters = page.parameters(given) | {"reports": str(folder)} | ({"name": page.label} if page.label else {})
    for fixed in page.fixed.keys() - declared_parameters(page.notebook):  # the notebook sets these itself
        del parameters[fixed]
    hand_down_digests()  # the kernel need not read base models again
    try:
        run_notebook(page.notebook, executed, parameters, quiet)
    except PapermillExecutionError as error:
        if error.ename == BadInput.__name__:
            raise BadInput(error.evalue) from None
        raise
    return executed


def reproduce_all(given: Mapping[str, Any], folder: Path | str, on_page: Callable[[str, Path], None]) -> None:
    """Every page of `names_of_all`: those that lack something one after the other, then the rest, two at a time.

    Args:
        given: Options; each page takes those that it has. Blocks are those of tables and figures.
        folder: Of all their files.
        on_page: Called with the name of a finished page and its executed notebook.

    Raises:
        As `reproduce` does.
    """
    complete = []
    options = {name: _options_of_all(PAGES[name], given) for name in names_of_all(given.get("profile", "tiny"))}
    for name, taken in options.items():
        if work(name, taken).is_complete():
            complete.append(name)
        else:
            on_page(name, reproduce(name, taken, folder))
    draw({name: options[name] for name in complete}, folder, on_page)


def draw(pages: Mapping[str, Mapping[str, Any]], folder: Path | str, on_page: Callable[[str, Path], None]) -> None:
    """Draw pages whose results are all there, two at a time; what their notebooks print goes into the copies alone.

    Args:
        pages: Name of a page -> its options.
        folder: Of all their files.
        on_page: Called with the name of a finished page and its executed notebook.

    Raises:
        As `reproduce` does.
    """
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        drawn = {name: threads.submit(reproduce, name, given, folder, quiet=True) for name, given in pages.items()}
        for name, page in drawn.items():
            on_page(name, page.result())


def names_of_all(profile: str) -> list[str]:
    """The pages that `reproduce all` makes of a profile, in their order."""
    return [page.name for page in PAGES.values() if page.of_all and page.only_profile in ("", profile)]


def _options_of_all(page: Page, given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items()
            if key in page.options and not (page.own_blocks and key == "blocks")}


def _check_options(name: str, given: Mapping[str, Any]) -> None:
    """Raise BadInput on an option that a page does not have."""
    for key, value in given.items():
        if value and key not in PAGES[name].options:
            shown = value if isinstance(value, str) else " ".join(map(str, value))
            raise BadInput(f"{key} {shown!r} was given for {name}, which has no such option: leave it out")


def work(name: str, given: Mapping[str, Any]) -> "Planned":
    """The work of a page: what computes it, and counts what is missing. Arguments and errors as of `plan`."""
    _check_options(name, given)
    page = PAGES[name]
    planned: Planned = getattr(rankadaptor, page.work)(**page.parameters(given))
    return planned
