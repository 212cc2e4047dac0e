"""Find and evaluate a simple sum in a text: + - * / and parentheses, exact, without eval."""

from __future__ import annotations

import re
from fractions import Fraction

_MAX_LENGTH = 200  # characters of one expression; bounds depth and size of numbers
_CANDIDATE = re.compile(r"(?<![\w.])[-(]{0,20}\d[\d.\s()+\-*/]*")
_DATE_OR_PATH = re.compile(r"\d+([-/])\d+\1\d+")
_TOKEN = re.compile(r"\s*(\d+\.\d+|\d+|[-+*/()])")


def solve(text: str) -> str | None:
    """Value of the first arithmetic expression in `text`, or None when there is none.

    Whole numbers come as such (`42`), others as decimals of at most 12 digits; a division by zero
    is `undefined`. Dates like 2026-08-22 are no expressions, and neither is a lone number.
    """
    for match in _CANDIDATE.finditer(text):
        try:
            value = _evaluate(match.group())
        except ZeroDivisionError:
            return "undefined"
        if value is not None:
            return _decimal(value)
    return None


def _evaluate(candidate: str) -> Fraction | None:
    """Value of the longest leading part of `candidate` that is an expression with an operator."""
    source = candidate[:_MAX_LENGTH].rstrip()
    if _DATE_OR_PATH.fullmatch(source.rstrip(".")):
        return None
    for attempt in (source, source.lstrip("(")):  # "(17 + 25 apples)" opens what it never closes
        parser = _Parser(attempt)
        try:
            value = parser.sum()
        except _NotAnExpressionError:
            continue
        return value if parser.operations else None
    return None


def _decimal(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    return f"{float(value):.12g}"


class _NotAnExpressionError(Exception):
    """The text is not an arithmetic expression."""


class _Parser:
    """Recursive descent; an operator without a right-hand side ends the expression before it."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._at = 0
        self.operations = 0

    def sum(self) -> Fraction:
        value = self._product()
        while (operator := self._peek()) in ("+", "-"):
            start = self._at
            self._take()
            try:
                right = self._product()
            except _NotAnExpressionError:
                self._at = start
                break
            self.operations += 1
            value = value + right if operator == "+" else value - right
        return value

    def _product(self) -> Fraction:
        value = self._factor()
        while (operator := self._peek()) in ("*", "/"):
            start = self._at
            self._take()
            try:
                right = self._factor()
            except _NotAnExpressionError:
                self._at = start
                break
            self.operations += 1
            value = value * right if operator == "*" else value / right
        return value

    def _factor(self) -> Fraction:
        token = self._take()
        if token == "-":
            return -self._factor()
        if token == "(":
            value = self.sum()
            if self._take() != ")":
                raise _NotAnExpressionError
            return value
        if token is None or not token[0].isdigit():
            raise _NotAnExpressionError
        return Fraction(token)

    def _peek(self) -> str | None:
        match = _TOKEN.match(self._source, self._at)
        return match.group(1) if match else None

    def _take(self) -> str | None:
        match = _TOKEN.match(self._source, self._at)
        if match is None:
            return None
        self._at = match.end()
        return match.group(1)
