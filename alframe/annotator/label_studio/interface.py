"""The labelling page: its hotkeys, and the parsing of its annotations."""

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from alframe.annotator.words import NEW, ParsedAnswer, parse_answer
from alframe.errors import DataError
from alframe.labels.consensus import SKIP, UNSURE, normalized_name

BAD, NEW_CLASS = "bad image", "new class"
WORDS = {UNSURE: "q", BAD: "x", NEW_CLASS: "n"}
"""The answers other than classes, and their keys. Skipping is Label Studio's own button (ctrl+space)."""
KEYS = "1234567890acdfgijlstyz"
"""Keys for the classes that Label Studio's page does not use itself; any further classes have none."""
ANSWER, NAME, IMAGE = "answer", "new_class_name", "image"


def interface(classes: Sequence[str]) -> str:
    """The XML of the page: the reason, if a task has one, a choice for each class and other answer, and the image below.

    A class with the name of another answer takes precedence; that answer is then not offered.
    """
    view = Element("View")
    SubElement(view, "Header", value="$reason", size="5")
    options = {"choice": "single-radio", "showInline": "true", "required": "true"}
    choices = SubElement(view, "Choices", {"name": ANSWER, "toName": IMAGE, **options})
    keys = WORDS | keys_of(classes)
    for text in (*classes, *words(classes)):
        SubElement(choices, "Choice", {"value": text, **({"hotkey": keys[text]} if text in keys else {})})
    if NEW_CLASS in words(classes):
        when = {"visibleWhen": "choice-selected", "whenTagName": ANSWER, "whenChoiceValue": NEW_CLASS}
        asked = {"placeholder": "name of the class, then Enter", "maxSubmissions": "1", "required": "true"}
        SubElement(SubElement(view, "View", when), "TextArea", {"name": NAME, "toName": IMAGE, **asked})
    SubElement(view, "Image", name=IMAGE, value="$image", zoom="true", zoomControl="true")
    return ElementTree.tostring(view, encoding="unicode")


def keys_of(classes: Sequence[str]) -> dict[str, str]:
    """A key for each class in order: its own name if that is a key (7), else the first free one. New classes change none."""
    free, keys = list(KEYS), {}
    for name in classes[: len(KEYS)]:
        own = normalized_name(name)
        keys[name] = own if own in free else free[0]
        free.remove(keys[name])
    return keys


def words(classes: Sequence[str]) -> list[str]:
    taken = {normalized_name(name) for name in classes}
    return [word for word in WORDS if word not in taken]


def offered(xml: str) -> set[str]:
    """The choices of the tag named `answer` in a labelling interface; empty without such a tag."""
    try:
        view = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return set()
    return {
        str(choice.get("value"))
        for tag in view.iter("Choices")
        if tag.get("name") == ANSWER
        for choice in tag.iter("Choice")
    }


def prelabel(name: str) -> list[dict[str, Any]]:
    """The result of a prediction that preselects the class `name`."""
    return [{"from_name": ANSWER, "to_name": IMAGE, "type": "choices", "value": {"choices": [name]}}]


def parse_annotation(annotation: Mapping[str, Any], classes: Sequence[str]) -> ParsedAnswer:
    """Parse an annotation: a class, another answer, a skip, or a new class.

    A choice that was added to the page by hand is a new class. Raises `DataError` unless there is exactly one choice, and
    for an invalid class name.
    """
    if annotation["was_cancelled"]:
        return ParsedAnswer(None, SKIP)
    chosen = [str(c) for part in _parts(annotation, ANSWER) for c in part.get("choices") or []]
    if len(chosen) != 1:
        raise DataError(f"Expected one choice, got {' and '.join(chosen) or 'none'}; choose one.")
    choice = chosen[0]
    if choice in classes:
        return ParsedAnswer(classes.index(choice))
    if choice in words(classes) and choice != NEW_CLASS:
        return parse_answer(choice, ())
    written = [str(t) for part in _parts(annotation, NAME) for t in _listed(part.get("text"))]
    name = " ".join(written) if choice == NEW_CLASS else choice
    same = [number for number, known in enumerate(classes) if normalized_name(known) == normalized_name(name)]
    return ParsedAnswer(same[0]) if same else parse_answer(f"{NEW} {name}", classes)


def _parts(annotation: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    return [part.get("value") or {} for part in annotation.get("result") or [] if part.get("from_name") == name]


def _listed(text: Any) -> list[Any]:
    return text if isinstance(text, list) else [text] if text else []
