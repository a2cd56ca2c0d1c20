"""The errors a caller of this library is expected to tell apart.

Belongs here: error types without behaviour. Does not belong here: messages that only one module raises once.
"""


class NotEnoughDataError(ValueError):
    """There is too little data to train or judge; the message says what is missing."""


class ContractError(ValueError):
    """Arrays, vectors or artifacts do not have the agreed form."""


class NodeMissingError(RuntimeError):
    """Node.js, or the packages it needs, cannot be found; the browser bundle cannot be checked here."""
