"""People who label in Label Studio: a server with a page for each image, at which several of them work in the browser at once."""

from alframe.annotator.label_studio.annotator import LabelStudio

__all__ = ["LabelStudio"]
