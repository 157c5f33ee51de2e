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


class Lost(Interrupted):
    """Another process of the run ended, or does not answer."""


LONGEST = 120
"""Characters that messages show of a name or a value."""


def shortened(text: str) -> str:
    """The beginning of a long text."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
