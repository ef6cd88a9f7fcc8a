"""What a user can do wrong, said in the user's words."""


class ConfigurationError(Exception):
    """Something asked for is impossible; the message names the key, the value and what was expected.

    The command line prints it in one line and ends with exit code 2.
    """


class NonFiniteLossError(RuntimeError):
    """A loss became nan or infinite; the message names the player and the step."""


def at_least(minimum: int, **argument: int) -> int:
    """The argument's value.

    Raises:
        ConfigurationError: it is below the minimum; the message names it.
    """
    ((name, value),) = argument.items()
    if value < minimum:
        raise ConfigurationError(f"{name}: {value} is below {minimum}")
    return value
