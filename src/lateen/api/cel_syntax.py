"""Say where a text stops being a CEL expression. Syntax only: names and types are the evaluator's to judge.

Grammar: the Common Expression Language's specification, section "Syntax"; the field selection that tests for presence
is an ordinary call, `has(a.b)`, as macros are.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["NESTING_LIMIT", "CelSyntaxError", "Token", "check_cel_syntax", "tokens"]

NESTING_LIMIT = 32  # deeper than anyone writes, shallower than Python's stack

_TOKEN = re.compile(
    r"""
    (?P<blank>[\t\n\f\r ]+ | //[^\n]*)
  | (?P<float>[0-9]*\.[0-9]+(?:[eE][+-]?[0-9]+)? | [0-9]+[eE][+-]?[0-9]+)
  | (?P<int>(?:0[xX][0-9a-fA-F]+ | [0-9]+)[uU]?)
  | (?P<string>
      (?:[bB]?[rR]|[rR][bB])(?: \"{3}.*?\"{3} | '{3}.*?'{3} | \"[^\"\n\r]*\" | '[^'\n\r]*' )
    | [bB]?(?: \"{3}(?:\\.|[^\\])*?\"{3} | '{3}(?:\\.|[^\\])*?'{3} | \"(?:\\.|[^\"\\\n\r])*\" | '(?:\\.|[^'\\\n\r])*' ))
  | (?P<name>[_a-zA-Z][_a-zA-Z0-9]*)
  | (?P<quoted>`[a-zA-Z0-9_.\-/ ]+`)
  | (?P<sign>&&|\|\||==|!=|<=|>=|[-+*/%!<>?:.,()\[\]{}])
    """,
    re.VERBOSE | re.DOTALL,
)
_RELATIONS = {"==", "!=", "<", "<=", ">", ">="}
_RESERVED = re.compile(
    r"(as|break|const|continue|else|for|function|if|import|let|loop|package|namespace|return|var|void|while)\Z"
)
_BINARY = ({"||"}, {"&&"}, _RELATIONS, {"+", "-"}, {"*", "/", "%"})  # loosest first


class Token(NamedTuple):
    """A word of an expression. `kind` is float, int, string, name, quoted, sign, or end."""

    kind: str
    text: str
    at: int  # character where it begins, from 0


class CelSyntaxError(ValueError):
    """A text is no CEL expression; the message says at which character (from 1) and what was seen."""


def check_cel_syntax(text: str) -> None:
    """Return if `text` is a CEL expression. Raises `CelSyntaxError`."""
    parser = _Parser(tokens(text))
    parser.expression()
    parser.expect_end()


def tokens(text: str) -> list[Token]:
    """Return the words of a text, and one of kind `end` behind the last. Raises `CelSyntaxError`."""
    found = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise CelSyntaxError(f"unexpected {text[at]!r} at character {at + 1}")
        kind = match.lastgroup or ""
        if kind != "blank":
            word = match.group()
            found.append(Token("sign" if kind == "name" and word == "in" else kind, word, at))
        at = match.end()
    found.append(Token("end", "", len(text)))
    return found


class _Parser:
    """Recursive descent over the grammar; keeps nothing but its place."""

    def __init__(self, read: list[Token]) -> None:
        self._tokens = read
        self._at = 0
        self._depth = 0

    def expression(self) -> None:
        """Expr = ConditionalOr ["?" ConditionalOr ":" Expr]"""
        self._depth += 1
        if self._depth > NESTING_LIMIT:
            raise CelSyntaxError(f"nested deeper than {NESTING_LIMIT} levels")
        self._binary(0)
        if self._take("?"):
            self._binary(0)
            self._expect(":")
            self.expression()
        self._depth -= 1

    def expect_end(self) -> None:
        if self._kind() != "end":
            raise self._unexpected("the end")

    def _binary(self, level: int) -> None:
        if level == len(_BINARY):
            self._unary()
            return
        self._binary(level + 1)
        while self._word() in _BINARY[level] or (_BINARY[level] is _RELATIONS and self._word() == "in"):
            self._next()
            self._binary(level + 1)

    def _unary(self) -> None:
        """Unary = Member | "!" {"!"} Member | "-" {"-"} Member"""
        sign = self._word()
        if sign in ("!", "-"):
            while self._take(sign):
                continue
        self._member()

    def _member(self) -> None:
        self._primary()
        while True:
            if self._take("."):
                if self._kind() not in ("name", "quoted"):
                    raise self._unexpected("a field's name")
                self._next()
                if self._take("("):
                    self._list(")")
            elif self._take("["):
                self.expression()
                self._expect("]")
            elif self._word() == "{" and self._tokens[self._at - 1][0] == "name":
                self._next()
                self._entries(fields=True)
            else:
                return

    def _primary(self) -> None:
        kind, word = self._kind(), self._word()
        if kind in ("float", "int", "string"):
            self._next()
        elif kind == "name" or (word == "." and self._tokens[self._at + 1][0] == "name"):
            self._take(".")
            if _RESERVED.match(self._tokens[self._at][1]):
                raise self._unexpected("an expression")
            self._next()
            if self._take("("):
                self._list(")")
        elif self._take("("):
            self.expression()
            self._expect(")")
        elif self._take("["):
            self._list("]")
        elif self._take("{"):
            self._entries(fields=False)
        else:
            raise self._unexpected("an expression")

    def _list(self, closing: str) -> None:
        while not self._take(closing):
            self.expression()
            if not self._take(","):
                self._expect(closing)
                return
            if closing == ")" and self._word() == ")":
                raise self._unexpected("an argument")

    def _entries(self, *, fields: bool) -> None:
        while not self._take("}"):
            if fields and self._kind() not in ("name", "quoted"):
                raise self._unexpected("a field's name")
            if fields:
                self._next()
            else:
                self.expression()
            self._expect(":")
            self.expression()
            if not self._take(","):
                self._expect("}")
                return

    def _kind(self) -> str:
        return self._tokens[self._at][0]

    def _word(self) -> str:
        """Return the sign that comes next, "" when it is none."""
        kind, word, _ = self._tokens[self._at]
        return word if kind == "sign" else ""

    def _next(self) -> None:
        self._at += 1

    def _take(self, sign: str) -> bool:
        found = self._word() == sign
        if found:
            self._next()
        return found

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            raise self._unexpected(repr(sign))

    def _unexpected(self, wanted: str) -> CelSyntaxError:
        kind, word, at = self._tokens[self._at]
        seen = "the end" if kind == "end" else repr(word)
        return CelSyntaxError(f"expected {wanted} at character {at + 1}, got {seen}")
