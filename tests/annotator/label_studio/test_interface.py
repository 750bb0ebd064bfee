import pytest

from alframe.annotator.label_studio.interface import interface, keys_of, offered, parse_annotation, words
from alframe.annotator.words import ParsedAnswer
from alframe.errors import DataError

CLASSES = ("crack", "good & <ok>", "Öl")


def annotation(*choices, name=None, cancelled=False):
    result = [{"from_name": "answer", "type": "choices", "value": {"choices": list(choices)}}] if choices else []
    if name is not None:
        result.append({"from_name": "new_class_name", "type": "textarea", "value": {"text": [name]}})
    return {"was_cancelled": cancelled, "result": result}


def test_the_page_offers_every_class_and_word_once():
    page = interface(CLASSES)
    assert offered(page) == {*CLASSES, "unsure", "bad image", "new class"}


def test_no_key_stands_for_two_choices():
    page = interface([f"class {n}" for n in range(40)])
    keys = [part.split('"')[0] for part in page.split('hotkey="')[1:]]
    assert len(keys) == 25
    assert len(set(keys)) == len(keys)


def test_a_class_that_is_called_like_a_key_has_that_key():
    digits = [str(n) for n in range(10)]
    assert keys_of(digits) == dict(zip(digits, digits, strict=True))
    assert keys_of(["crack", "A", "good", "1"]) == {"crack": "1", "A": "a", "good": "2", "1": "3"}


def test_a_class_that_is_called_like_a_word_goes_first():
    assert words(("Unsure", "good")) == ["bad image", "new class"]
    assert parse_annotation(annotation("Unsure"), ("Unsure", "good")) == ParsedAnswer(0)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (annotation("good & <ok>"), ParsedAnswer(1)),
        (annotation("unsure"), ParsedAnswer(None, "unsure")),
        (annotation("bad image"), ParsedAnswer(None, "bad_image")),
        (annotation("crack", cancelled=True), ParsedAnswer(None, "skip")),
        (annotation("new class", name=" oil  stain"), ParsedAnswer(None, "new_class", "oil stain")),
        (annotation("new class", name="CRACK"), ParsedAnswer(0)),
        (annotation("crack", name="dent"), ParsedAnswer(0)),
        (annotation("dent"), ParsedAnswer(None, "new_class", "dent")),
    ],
    ids=str,
)
def test_an_annotation_means(given, meant):
    assert parse_annotation(given, CLASSES) == meant


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (annotation(), "one choice, got none"),
        (annotation("crack", "unsure"), "got crack and unsure"),
        (annotation("new class"), "name of a new class, got none"),
        (annotation("new class", name="a,b"), "without punctuation"),
    ],
    ids=str,
)
def test_an_annotation_without_a_meaning_is_told(given, told):
    with pytest.raises(DataError, match=told):
        parse_annotation(given, CLASSES)


@pytest.mark.parametrize("page", ["", "<View>", "<View><Choices name='other'><Choice value='crack'/></Choices></View>"])
def test_a_page_without_our_tag_offers_nothing(page):
    assert offered(page) == set()
