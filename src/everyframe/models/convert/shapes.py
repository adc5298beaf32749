"""Sizes read off the names and shapes of weights, where no configuration says them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Tensor

from everyframe.errors import InputError


class Shapes(dict[str, tuple[int, ...]]):
    """Name of a tensor -> its shape; and what was taken for granted because no shape says it.

    Attributes:
        assumed: sentences for the report.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__({name: tuple(value.shape) for name, value in state.items()})
        self.assumed: list[str] = []

    def has(self, pattern: str) -> bool:
        """Whether any whole name fits a regular expression."""
        return any(re.fullmatch(pattern, name) for name in self)

    def numbers(self, pattern: str) -> list[int]:
        """Return the different numbers that the first group of `pattern` finds in whole names, ascending."""
        return sorted({int(match[1]) for name in self if (match := re.fullmatch(pattern, name))})

    def count(self, pattern: str) -> int:
        """Return how many different numbers the first group of `pattern` finds."""
        return len(self.numbers(pattern))

    def of(self, name: str) -> tuple[int, ...]:
        """Return the shape of one tensor.

        Raises:
            InputError: it is not there.
        """
        if name not in self:
            raise InputError(
                f"expected an entry {name!r} among the {len(self)} weights, to read the model's size from, came none; "
                f"is the file whole, and --kind right?"
            )
        return self[name]

    def part(self, prefix: str) -> Shapes:
        """Return the entries under a prefix, without it; what is assumed there is assumed here."""
        inner = Shapes({})
        inner.update({name.removeprefix(prefix): shape for name, shape in self.items() if name.startswith(prefix)})
        inner.assumed = self.assumed
        return inner

    def assume(self, sentence: str) -> None:
        """Note something that no shape says."""
        if sentence not in self.assumed:
            self.assumed.append(sentence)


def ratio(hidden: int, width: int) -> float:
    """Return hidden / width as a float whose product with the width, cut to an integer, is `hidden` again."""
    value = hidden / width
    return value if int(value * width) == hidden else math.nextafter(value, math.inf)


def grid_side(cells: int, what: str) -> int:
    """Return the side of a square grid.

    Raises:
        InputError: no square.
    """
    side = math.isqrt(cells)
    if side * side != cells:
        raise InputError(
            f"{what}: expected the positions of a square frame, came {cells} of them; give the configuration (--config)"
        )
    return side
