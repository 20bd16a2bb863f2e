"""The one exception that the command line turns into a message instead of a traceback."""


class UserError(Exception):
    """Something that the person at the keyboard can put right; the message says what, where and how."""
