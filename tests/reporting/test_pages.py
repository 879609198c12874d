"""A page is one entry of a registry."""

import dataclasses

import pytest

import rankadaptor
from rankadaptor.errors import BadInput
from rankadaptor.reporting import pages
from rankadaptor.reporting.notebooks import FOLDER, declared_parameters, run_notebook


def test_a_name_is_registered_once(monkeypatch):
    monkeypatch.setattr(pages, "PAGES", dict(pages.PAGES))
    mine = dataclasses.replace(pages.PAGES["table2"], name="mine")
    pages.register(mine)
    assert pages.PAGES["mine"] is mine
    with pytest.raises(ValueError, match="page 'mine' is registered already"):
        pages.register(mine)


@pytest.mark.parametrize("page", pages.PAGES.values(), ids=lambda page: page.name)
def test_a_pages_notebook_declares_its_options(page):
    assert page.work in rankadaptor.__all__
    declared = set(declared_parameters(page.notebook))
    options = {"table" if option == "rank_table" else option for option in page.options}
    assert options | {"reports"} | ({"name"} if page.label else set()) <= declared


def test_a_parameter_that_a_notebook_lacks_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"unknown parameter seed: the notebook takes .*; did you mean seeds\?"):
        run_notebook("03_main_tables", tmp_path / "out.ipynb", {"seed": [3]})
    assert list(tmp_path.iterdir()) == []


def test_every_notebook_but_the_explorer_is_a_page():
    assert {page.notebook for page in pages.PAGES.values()} | {"00_explore"} == {
        path.stem for path in FOLDER.glob("*.ipynb")}
