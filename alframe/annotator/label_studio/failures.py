"""Server errors that a retry may resolve. Separate from the client, so that importing them does not need httpx."""

from alframe.errors import AlframeError


class Unreachable(AlframeError):
    """The server does not respond, or not correctly; it may recover."""


class NotFound(AlframeError):
    """The requested resource is not on the server."""
