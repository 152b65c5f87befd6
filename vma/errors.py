"""The one exception family that commands turn into a single line and exit code 2."""


class InputError(ValueError):
    """Something the user gave cannot be used. The message is one line that names the cause and the remedy."""


class DataUnavailable(InputError):
    """A data set could be had from nowhere. `attempts` lists, in order, each place that was tried and why it failed."""

    def __init__(self, message: str, attempts: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.attempts = attempts
