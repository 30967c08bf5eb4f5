"""The one exception that a boundary raises for bad input.

Everything that reads from outside (HTTP, YAML, JSON lines, the command line, the environment) raises
`InputError` with a message that says what is wrong, where, and what to do. The command line prints it as
one line and exits with 2; the gateway turns it into an error of OpenAI's shape. Any other exception is a
bug in hocket.
"""


class InputError(ValueError):
    """Bad input from a user. The message is shown to that user as it is."""
