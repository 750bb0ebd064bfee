"""What can go wrong with a server and may go away on a retry. Apart from the client, so that httpx is not needed to name it."""

from alframe.errors import AlframeError


class Unreachable(AlframeError):
    """The server does not answer, or not as it should: it may in a moment."""


class NotFound(AlframeError):
    """What was asked for is not on the server."""
