"""What can go wrong with a gate, apart from the data being unfit. Nothing here knows Great Expectations."""


class GateError(RuntimeError):
    """A gate could not be judged at all: unknown name, missing table, unreachable server, broken SQL.

    Not the same as a failed gate: a failure says something about the data, this says nothing about it. The message is
    one line and never holds the connection string.
    """
