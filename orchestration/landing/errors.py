"""What can go wrong while landing, as types, so that callers decide by type and never by text.

Belongs here: exception classes. Does not belong here: retry policy. No message ever holds an id or a URL with ids.
"""


class SourceError(Exception):
    """A catalogue source did not give what was asked."""


class TransientSourceError(SourceError):
    """Worth another attempt: 429, 5xx, time-outs, broken or incomplete bodies.

    Attributes:
        retry_after: Seconds the server asked us to wait, if it did.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        """Keep the wait the server asked for next to the message."""
        super().__init__(message)
        self.retry_after = retry_after


class PermanentSourceError(SourceError):
    """Another attempt would fail the same way: a bad parameter, a used-up request budget."""


class CredentialsError(PermanentSourceError):
    """The ids are missing, malformed or refused."""


class LandingError(Exception):
    """A file, a window or a source could not be landed; the message is one line an operator can act on."""
