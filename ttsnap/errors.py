"""The one exception that the command line and the stages turn into a single line."""


class UserError(Exception):
    """Something the user can put right; the message says what, where, and what was expected."""
