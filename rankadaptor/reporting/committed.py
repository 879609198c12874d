"""Committed reports: drawn from the committed records alone, with nothing computed.

`records/PROFILE/` holds the records (`pipeline.records`) and `pages.yaml`, which names the pages that are committed and
the options that each was computed with:

    table2: {budget: standard}
    pruning: {}
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from rankadaptor.errors import BadInput, check_name
from rankadaptor.experiments.paths import build_folder, records_folder
from rankadaptor.files import file_digest, settle
from rankadaptor.keys import sha256_text
from rankadaptor.models.base_model import base_model_identity
from rankadaptor.pipeline.ledger import UNPACKED, Ledger
from rankadaptor.pipeline.record_comparison import Comparison, compare_with_records
from rankadaptor.pipeline.records import (
    FILES,
    ITEMS,
    RESULTS,
    ROUNDS,
    mark_unpacked,
    recorded_keys,
    recorded_searches,
    unpack_records,
    write_records,
)
from rankadaptor.profiles import load_profile
from rankadaptor.reporting import pages
from rankadaptor.reporting.report import write_report

PAGES = "pages.yaml"


def committed_pages(profile: str) -> dict[str, dict[str, Any]]:
    """Options of each committed page of a profile, by the page's name; empty where nothing is committed.

    Raises:
        BadInput: if `pages.yaml` is no mapping from pages to options.
    """
    path = records_folder(load_profile(profile).name) / PAGES
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        content = None
    if not isinstance(content, dict) or not all(isinstance(options, dict) for options in content.values()):
        raise BadInput(f"{path} is no mapping from pages to options: restore it")
    for name, options in content.items():
        check_name("page", name, pages.PAGES)
        for option in options:
            check_name(f"option of {name}", option, pages.PAGES[name].options)
    return content


def write_profile_records(profile: str, ledger: Path | str) -> Path:
    """Record all results of a profile's base model that a ledger holds, and the rounds of its searches.

    Returns:
        The folder of the records.

    Raises:
        BadInput: if the ledger holds none.
    """
    source, loaded = Ledger(ledger), load_profile(profile)
    folder = records_folder(loaded.name)
    keys = recorded_keys(source, base_model_identity(loaded.base_model))
    if not keys:
        raise BadInput(f"{source.folder} holds no result of {loaded.base_model.label}: name another ledger")
    write_records(source, keys, recorded_searches(source), folder)
    return folder


def render(profile: str, reports: Path | str, on_page: Callable[[str, Path], None]) -> Path:
    """Draw every committed page of a profile from its records, two at a time, and the report over them.

    They go into REPORTS/PROFILE itself; runs write to folders below, one a budget, which git ignores.

    Args:
        reports: Folder of all profiles' reports.
        on_page: Called with the name of a drawn page and its executed notebook.

    Returns:
        The report page.

    Raises:
        BadInput: if nothing of the profile is committed, or the records lack a result that a page needs.
    """
    options = committed_pages(profile)
    if not options:
        raise BadInput(f"no page of profile {profile} is committed: compute one, such as make reproduce-table2"
                       f" PROFILE={profile}")
    loaded = load_profile(profile)
    ledger, folder = unpacked(loaded.name), Path(reports) / loaded.name
    given = {name: taken | {"profile": profile, "ledger": str(ledger.folder)} for name, taken in options.items()}
    for name, taken in given.items():
        plan = pages.plan(name, taken)
        if plan.missing:
            raise BadInput(f"the records of {profile} lack {plan.missing.total()} results of {name}: record them again,"
                           " or mend the options in pages.yaml")
    before = {entry.key for entry in ledger.entries()}
    pages.draw(given, folder, on_page)
    if added := {entry.key for entry in ledger.entries()} - before:
        raise BadInput(f"drawing the pages of {profile} computed {len(added)} results that its records lack: record"
                       " them again")
    return write_report(profile, folder)


def unpacked(name: str) -> Ledger:
    """The ledger of a profile's records, made once for each content of them.

    Args:
        name: Of the profile.
    """
    folder = records_folder(name)
    digests = [file_digest(folder / file) for file in (RESULTS, ITEMS, ROUNDS, FILES) if (folder / file).is_file()]
    digest = sha256_text("".join([UNPACKED, *digests]))  # with the mark: ledgers of earlier versions have none
    target = build_folder() / "records" / f"{name}-{digest[:12]}"
    if not target.is_dir():
        draft = target.with_name(f".{target.name}")
        mark_unpacked(unpack_records(folder, draft))
        settle(draft, target)
    return Ledger(target)


def compare(profile: str, ledger: Path | str) -> Comparison | None:
    """Results of a ledger beside the committed records of a profile; None where it has none."""
    folder = records_folder(load_profile(profile).name)
    if not (folder / RESULTS).is_file():
        return None
    source = Ledger(ledger)
    return compare_with_records(source, [entry.key for entry in source.entries()], folder)
