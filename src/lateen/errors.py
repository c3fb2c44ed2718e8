"""The tree of what can go wrong, and what each branch means to its catcher.

    LateenError                 anything this package raises on purpose; str() is fit for a person
    |-- BadInput                received text, resources or messages are wrong; the sender must change them
    |   `-- Expired             what was received was right once, and its time is over
    |-- Refused                 the caller may not have what it asked for (identity, namespace, local trust)
    |-- Unavailable             a part that is needed does not answer now; trying again may help
    `-- Unsupported             this machine or this version cannot do it, and the message says what to install or use

Messages: lower case, no full stop; the value seen, the value wanted, and the place.
"""

__all__ = ["BadInput", "Expired", "LateenError", "Refused", "Unavailable", "Unsupported"]


class LateenError(Exception):
    """Base of every error raised on purpose."""


class BadInput(LateenError):
    """Something received is wrong and its sender must change it."""


class Expired(BadInput):
    """What was received was right once, and its time is over."""


class Refused(LateenError):
    """The caller is known, or unknown, and may not have what it asked for."""


class Unavailable(LateenError):
    """A part that is needed does not answer now."""


class Unsupported(LateenError):
    """This machine or this version cannot do what was asked."""
