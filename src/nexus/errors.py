"""The two kinds of failure a person can mend. Everything else is a bug and keeps its traceback."""


class NexusError(Exception):
    """Something a user can put right. The message names the thing, the value and the remedy."""

    exit_code = 1


class UsageError(NexusError):
    """The request itself is wrong: a misspelt key, an impossible value, a missing file."""

    exit_code = 2


class Interrupted(NexusError):
    """The run stopped before its end and continues when the same command is run again."""

    exit_code = 75
