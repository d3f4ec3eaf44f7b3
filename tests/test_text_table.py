"""Tables of text."""

import text_table

ROWS = [["", "a", "long"], ["first|row", "1", "2"]]


def test_columns_are_as_wide_as_their_widest_cell():
    assert text_table.plain(ROWS) == "           a  long\nfirst|row  1     2"


def test_columns_may_stand_to_the_left():
    assert text_table.plain(ROWS, n_left=3) == "           a  long\nfirst|row  1  2"


def test_markdown_keeps_a_bar_inside_its_cell():
    assert text_table.markdown(ROWS).splitlines() == [
        "|  | a | long |",
        "| --- | ---: | ---: |",
        "| first\\|row | 1 | 2 |",
    ]
