"""What was chosen on other videos, the tau of a sweep or the say of specialists: whether it fits what it is used on."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from everyframe.errors import InputError

if TYPE_CHECKING:
    from everyframe.data.layout import VideoRef
    from everyframe.inference.scores import ScoreNorm


SIDES = ("window", "stride")
"""Settings that are a height and a width, or one number for both."""


@dataclass(frozen=True)
class Chosen:
    """A choice, and what it was made for.

    Attributes:
        what: it is called in notes, "tau 0.4 of sweep.json".
        file: that holds it.
        members: it was chosen for, absolute, the first one being the one that it weighs against the others; files of
            older releases have their last parts alone.
        score_norm: it was chosen under; "" where the file does not say.
        data: it was chosen on.
        videos: of these.
    """

    what: str
    file: Path
    members: tuple[str, ...]
    score_norm: str
    data: str
    videos: tuple[str, ...]

    def norm(self, said: ScoreNorm | None) -> ScoreNorm:
        """Return the norm to use: that of the choice, or what was said where nobody knows.

        Raises:
            InputError: another one was said.
        """
        if self.score_norm and said not in (None, self.score_norm):
            raise InputError(
                f"{self.file}: expected --score-norm {self.score_norm}, under which it was chosen, came {said}; leave "
                f"--score-norm out, or choose anew with --score-norm {said}"
            )
        return cast("ScoreNorm", self.score_norm or said or "softmax")

    def other_members(self, members: Sequence[str], typed: Sequence[str]) -> str:
        """Return a sentence where the members are not those of the choice, which models trained anew are; else "".

        Args:
            members: absolute, with their settings.
            typed: the same ones as they were written, for the message.

        Raises:
            InputError: they are those of the choice, or are called like them, with another one first.
        """
        unknown = all(member == Path(member).name for member in self.members)  # where they lay: their names are known
        for key, unlike in KEYS:
            then, now = [key(member) for member in self.members], [key(member) for member in members]
            if sorted(then) != sorted(now):
                continue
            if then[0] != now[0]:
                first = now.index(then[0])
                order = [typed[first], *typed[:first], *typed[first + 1 :]]
                raise InputError(
                    f"{self.file}: expected {typed[first]} first, as it was chosen, came {typed[0]}; say "
                    f"{shlex.join(order)}"
                )
            return self._note(unlike, members) if unlike and not unknown else ""
        return "" if unknown else self._note("are other models", members)

    def _note(self, unlike: str, members: Sequence[str]) -> str:
        return f"{self.what} was chosen for {', '.join(self.members)}; the members here {unlike}: {', '.join(members)}"

    def seen(self, data: str, videos: Sequence[VideoRef]) -> str:
        """Return a sentence where some of the videos, of `data`, led to the choice; else ""."""
        from everyframe.data.held_out import seen_note

        return seen_note(self.what, self.data, self.videos, data, videos)


def _parts(member: str) -> tuple[str, dict[str, object]]:
    """Split a member into its model's path and how it looks at frames, written in one way."""
    from everyframe.inference.member_text import read_member
    from everyframe.models.checkpoint import model_path

    try:
        where, views = read_member(member)
    except InputError:  # a path with an @ that lay on another machine
        where, views = member, {}
    if where and Path(where).exists():
        where = str(Path(model_path(where)).resolve())
    written = {name: 2 * [side] if name in SIDES and isinstance(side, int) else side for name, side in views.items()}
    return where, {name: value for name, value in written.items() if value is not False}


def _model_and_settings(member: str) -> str:
    where, views = _parts(member)
    return json.dumps([where, views], sort_keys=True)


def _model(member: str) -> str:
    return _parts(member)[0]


def _name(member: str) -> str:
    path = Path(_model(member))
    return path.parent.name if path.name == "model" else path.name


KEYS: tuple[tuple[Callable[[str], str], str], ...] = (
    (_model_and_settings, ""),
    (_model, "look at frames in other ways"),
    (_name, "are other models"),
)
"""What members are told apart by, and what those are that differ in what came before alone."""
