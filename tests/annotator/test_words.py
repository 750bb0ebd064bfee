import pytest

from alframe.annotator.words import parse_answer
from alframe.errors import DataError

CLASSES = ("good", "Deep Scratch", "skip me")


@pytest.mark.parametrize(("text", "label"), [("good", 0), (" GOOD ", 0), ("deep  scratch", 1), ("Skip Me", 2)])
def test_case_and_white_space_do_not_count(text, label):
    assert parse_answer(text, CLASSES).label == label


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("unsure", "unsure"),
        ("?", "unsure"),
        ("Skip", "skip"),
        ("-", "skip"),
        ("Bad Image", "bad_image"),
        ("bad_image", "bad_image"),
    ],
)
def test_words_for_no_class(text, answer):
    parsed = parse_answer(text, CLASSES)
    assert (parsed.label, parsed.answer) == (None, answer)


def test_a_new_class_is_named():
    parsed = parse_answer(" New:  oil   stain", CLASSES)
    assert (parsed.label, parsed.answer, parsed.text) == (None, "new_class", "oil stain")


@pytest.mark.parametrize(
    ("text", "name"),
    [("unsure: good", "good"), ("Unsure:DEEP  scratch", "Deep Scratch"), ("good?", "good"), ("skip me ?", "skip me")],
)
def test_unsure_may_lean_to_a_class(text, name):
    parsed = parse_answer(text, CLASSES)
    assert (parsed.label, parsed.answer, parsed.text) == (None, "unsure", name)


def test_a_class_that_is_called_like_a_lean_goes_first():
    assert parse_answer("good?", ("good", "good?")).label == 1


@pytest.mark.parametrize(("text", "label"), [("1.0", 0), ("1,0", 0), ("1", 0), ("7", 1), ("007", 1), ("1E+01", 2)])
def test_classes_that_are_numbers_survive_a_spreadsheet(text, label):
    assert parse_answer(text, ("1", "007", "10")).label == label


def test_two_classes_that_differ_by_case_need_the_exact_name():
    assert parse_answer("a", ("A", "a")).label == 1
    with pytest.raises(DataError, match="which may be 'AA' or 'aa'"):
        parse_answer("Aa", ("AA", "aa"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "goood",
            r"good, Deep Scratch, skip me, unsure, skip, bad image or new: NAME, got 'goood'; did you mean 'good'\?",
        ),
        ("0", "got '0'"),
        ("new: Good", "which already is a class; write Good"),
        ("new:", "got none"),
        ("new: a,b", "without punctuation"),
        ("unsure: dent", "the most likely of good, Deep Scratch, skip me after unsure:, got 'dent'"),
        ("unsure: skip", "after unsure:, got 'skip'"),
        ("dent?", "got 'dent\\?'"),
    ],
)
def test_anything_else_is_told_with_what_is_allowed(text, told):
    with pytest.raises(DataError, match=told):
        parse_answer(text, CLASSES)
