"""What is wrong with an expression, and where in it."""

from __future__ import annotations

__all__ = ["ExpressionError"]


class ExpressionError(ValueError):
    """`message` says what; `line` and `column` say where, both from 1, within the text of the expression."""

    def __init__(self, message: str, line: int = 1, column: int = 1) -> None:
        super().__init__(f"{message} (at {line}:{column})")
        self.message = message
        self.line = line
        self.column = column
