"""Figures and names as people read them."""

import pytest

from slimrec.verdict.wording import bound, figure, literal, sentence, signed, size, whole


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1234, "1.23 kB"),
        (999_000, "999 kB"),
        (1e6, "1 MB"),
        (2.5e9, "2.5 GB"),
        (1e12, "1 TB"),
        (1_234_500_000_000_000, "1234 TB"),
    ],
)
def test_bytes_are_told_in_powers_of_1000_by_three_digits(count, said):
    assert size(count) == said


def test_whole_numbers_have_narrow_spaces_between_thousands():
    assert [whole(count) for count in (0, 999, 1234, 1234567)] == ["0", "999", "1\u202f234", "1\u202f234\u202f567"]


def test_a_quality_has_five_decimals_and_a_change_its_sign_unless_it_rounds_to_nothing():
    assert figure(0.7123456) == "0.71235"
    changes = (0.00123, -0.00123, 0.000004, -0.000004, 0.0)
    assert [signed(change) for change in changes] == ["+0.00123", "\u22120.00123", "0", "0", "0"]


def test_markdown_shows_a_name_as_it_is():
    assert literal("a_b*c|d [x](y) `z` #1") == r"a\_b\*c\|d \[x\]\(y\) \`z\` \#1"
    assert literal("<b>&amp;\n two  lines") == "&lt;b&gt;&amp;amp; two lines" and literal('"it\'s"') == '"it\'s"'


def test_a_bound_that_is_none_is_unknown_and_a_quality_has_no_plus():
    assert [bound(value) for value in (None, 0.1, -0.1, 0.0)] == ["unknown", "+0.10000", "\u22120.10000", "0"]
    assert [bound(value, False) for value in (None, 0.1, -0.1, 0.0)] == ["unknown", "0.10000", "\u22120.10000", "0"]


def test_a_sentence_begins_with_a_capital_letter_and_leaves_the_others_as_they_are():
    assert sentence("the AUC of mLP") == "The AUC of mLP." and sentence("a") == "A."
