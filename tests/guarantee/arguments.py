"""Arguments of the evidence commands: one that is wrong is refused in one sentence, before anything is started."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Says only what is wrong; exit status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def whole(least: int) -> Callable[[str], int]:
    """The type of an argument that is a whole number of ``least`` or more."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {least} or more")
        return number

    return read


def seconds(text: str) -> float:
    """A time that may be none at all."""
    return _finite(text, text_of_bound="0 or more", holds=lambda number: number >= 0)


def above_zero(text: str) -> float:
    """A time that is some."""
    return _finite(text, text_of_bound="more than 0", holds=lambda number: number > 0)


def _finite(text: str, *, text_of_bound: str, holds: Callable[[float], bool]) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or not holds(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of {text_of_bound}")
    return number
