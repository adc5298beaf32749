"""What the arguments of `everyframe ensemble` name: members and the way they are joined."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from everyframe.errors import InputError

if TYPE_CHECKING:
    from everyframe.ensemble import Join
    from everyframe.inference.members import Member


def members_of(options: argparse.Namespace) -> list[Member]:
    """Open what the arguments name."""
    from everyframe.inference.members import LiveMember, StoredMember
    from everyframe.inference.views import with_views
    from everyframe.io.score_maps import is_score_folder

    members: list[Member] = []
    for text, name in zip(options.members, short_names(options.members), strict=True):
        if is_score_folder(text):
            members.append(StoredMember(text, options.score_norm))
            continue
        where, window, stride = _window(text)
        norm = options.score_norm if options.flip or options.scales else None
        model = with_views(
            where, window=window, stride=stride, flip=options.flip, scales=options.scales, score_norm=norm
        )
        members.append(LiveMember(name, model, options.device or "auto", options.dtype))
    return members


def short_names(members: Sequence[str]) -> list[str]:
    """Short names of the members; those that would be equal are written out or numbered."""
    short = [Path(_window(text)[0]).name or text for text in members]
    if len(set(short)) < len(short):
        short = list(members)
    return [name if short.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(short, 1)]


def absolute(member: str) -> str:
    """A path that holds from every folder; what is no path stays as it is."""
    return str(Path(member).resolve()) if Path(member).exists() else member


def join_of(options: argparse.Namespace) -> tuple[str, Join]:
    """The join that the options ask for, and its name.

    Raises:
        InputError: options that contradict each other.
    """
    from everyframe.ensemble import vote, weighted
    from everyframe.inference.sweep import best_tau

    count, tau = len(options.members), options.tau
    if options.tau_from is not None:
        if tau is not None:
            raise InputError("ensemble run: expected --tau or --tau-from, came both; leave one out")
        tau = best_tau(options.tau_from)
    method = options.method or ("mean" if tau is None else "soft")
    if method == "soft" and (tau is None or not 0 <= tau <= 1 or count != 2):
        raise InputError(
            f"ensemble run: soft expects two members and a --tau in 0..1 (or --tau-from), came {count} members and "
            f"tau {tau}"
        )
    if method != "soft" and tau is not None:
        raise InputError(f"ensemble run: expected tau with --method soft alone, came --method {method}")
    if method == "vote":
        return f"vote of {count}", vote(options.score_norm)
    if method == "soft":
        return f"soft sum, tau {tau:g}", weighted((tau, 1 - tau), options.score_norm)
    return f"mean of {count}", weighted((1.0,) * count, options.score_norm)


def _window(text: str) -> tuple[str, int | None, int | None]:
    """Split MODEL@WINDOW/STRIDE; a path that exists is taken whole."""
    where, at, sizes = text.rpartition("@")
    if not at or Path(text).exists():
        return text, None, None
    window, _, stride = sizes.partition("/")
    if not window.isdigit() or (stride and not stride.isdigit()):
        raise InputError(f"{text}: expected MODEL@WINDOW or MODEL@WINDOW/STRIDE in pixels, such as {where}@480/320")
    return where, int(window), int(stride) if stride else None
