"""People label in Label Studio: a server with one page per image, where several people can work in the browser at once."""

from alframe.annotator.label_studio.annotator import LabelStudio

__all__ = ["LabelStudio"]
