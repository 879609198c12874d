"""An error is one line that can be printed anywhere, whatever the value in it."""

import pickle

import pytest

from rankadaptor.errors import BadInput, check_name, cut, did_you_mean, printable, shown


@pytest.mark.parametrize(("said", "is_shown"), [
    ("steps is 0: give at least 1", "steps is 0: give at least 1"),
    ("a\nb\r\tc", r"a\nb\r\tc"),
    ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
    ("half \ud83d, \u202e, \xa0", r"half \ud83d, \u202e, \xa0"),
    ("Möbius · 模型", "Möbius · 模型"),
])
def test_a_message_is_printable_and_one_line(said, is_shown):
    assert str(BadInput(said)) == printable(said) == is_shown
    assert is_shown.isprintable()


def test_of_a_long_message_start_and_remedy_stay():
    text = str(BadInput(f"name is {'x' * 10_000_000}: give a shorter one"))
    assert text.startswith("name is xxx")
    assert text.endswith("xxx: give a shorter one")
    assert len(text) < 1_010


def test_long_values_are_cut_and_huge_numbers_named():
    assert shown("short") == "'short'"
    assert len(shown("x" * 10_000)) == len(shown(list(range(10_000)))) == 204
    assert shown(10**5_000) == "a value of type int"
    assert cut("x" * 200) == "x" * 200


def test_errors_travel_between_processes():
    error = pickle.loads(pickle.dumps(BadInput("a\nb")))
    assert (type(error), str(error)) == (BadInput, r"a\nb")


def test_a_word_of_a_megabyte_is_compared_at_once():
    assert did_you_mean("tabel2" + "x" * 10**6, ["table2"]) == ""
    with pytest.raises(BadInput, match=r"^unknown page 'tabel2': use one of table2; did you mean table2\?$"):
        check_name("page", "tabel2", ["table2"])
