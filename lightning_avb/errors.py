"""What a user can do wrong, said in the user's words."""


class ConfigurationError(Exception):
    """Something asked for is impossible; the message names the key, the value and what was expected.

    The command line prints it in one line and ends with exit code 2.
    """


class NonFiniteLossError(RuntimeError):
    """A loss became nan or infinite; the message names the player and the step."""
