"""What the arguments of `everyframe ensemble` name: members and the way they are joined."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from everyframe.cli.ensemble_chosen import Chosen
from everyframe.errors import InputError

if TYPE_CHECKING:
    from everyframe.data.layout import VideoRef
    from everyframe.ensemble import Join
    from everyframe.inference.members import Member
    from everyframe.inference.views import Views
    from everyframe.labels import LabelSpace


def members_of(options: argparse.Namespace) -> list[Member]:
    """Open what the arguments name.

    Raises:
        InputError: a member that cannot be opened, or members of two kinds that the norm does not fit.
    """
    from everyframe.inference.ensemble import check_kinds
    from everyframe.inference.member_text import member_views, read_member
    from everyframe.inference.members import LiveMember, StoredMember
    from everyframe.inference.views import with_views
    from everyframe.io.score_maps import is_score_folder

    members: list[Member] = []
    device = options.device or "auto"
    common: Views = {"flip": options.flip, "scales": options.scales, "score_norm": options.score_norm}
    for text, name in zip(options.members, short_names(options.members), strict=True):
        where, own = read_member(text)
        if is_score_folder(where):
            if own:
                raise InputError(
                    f"{text}: expected score maps alone, came settings behind the @; how the model looked at frames "
                    f"was chosen when they were stored: everyframe ensemble store MODEL@{text.rpartition('@')[2]} ..."
                )
            members.append(StoredMember(where, options.score_norm or "softmax", device))
            continue
        members.append(LiveMember(name, with_views(where, **member_views(common, own)), device, options.dtype))
    check_kinds([member.predicts for member in members], options.score_norm or "softmax")
    return members


def short_names(members: Sequence[str]) -> list[str]:
    """Short names of the members; those that would be equal are written out or numbered."""
    from everyframe.inference.member_text import read_member

    short = [Path(read_member(text)[0]).name or text for text in members]
    if len(set(short)) < len(short):
        short = list(members)
    return [name if short.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(short, 1)]


def absolute(member: str) -> str:
    """A member whose path holds from every folder; what is no path stays as it is."""
    from everyframe.inference.member_text import read_member

    where = read_member(member)[0]
    return str(Path(where).resolve()) + member[len(where) :] if Path(where).exists() else member


def looking_as(options: argparse.Namespace) -> tuple[str, ...]:
    """The members as `absolute` has them, with --flip and --scales written behind those that these hold for."""
    from everyframe.inference.member_text import read_member, spelled_out
    from everyframe.io.score_maps import is_score_folder

    common: Views = {"flip": options.flip, "scales": options.scales}
    return tuple(
        absolute(text if is_score_folder(read_member(text)[0]) else spelled_out(text, common))
        for text in options.members
    )


class Footage(NamedTuple):
    """What the members are run on.

    Attributes:
        videos: all of a split, or half of them.
        space: their classes.
        called: their name from whatever folder.
    """

    videos: list[VideoRef]
    space: LabelSpace
    called: str


def videos_of(options: argparse.Namespace) -> Footage:
    """The videos that the options name."""
    from everyframe.data.held_out import half_of
    from everyframe.data.layouts import load_split, parse_spec

    videos, space = load_split(options.data, options.split)
    layout, root = parse_spec(options.data)
    called = f"{layout}:{root.resolve()}, {options.split}"
    if options.half is None:
        return Footage(list(videos), space, called)
    return Footage(half_of(videos, options.half), space, f"{called} ({options.half} half)")


def tau_of(options: argparse.Namespace) -> tuple[float | None, Chosen | None]:
    """The weight of two models that the options name, and the sweep that chose it.

    Raises:
        InputError: two weights, or no sweep.
    """
    from everyframe.inference.sweep import best_tau

    if options.tau_from is None:
        return options.tau, None
    if options.tau is not None:
        raise InputError("ensemble run: expected --tau or --tau-from, came both; leave one out")
    best = best_tau(options.tau_from)
    what = f"tau {best.tau:g} of {options.tau_from}"
    return best.tau, Chosen(what, options.tau_from, best.members, best.score_norm, best.data, best.videos)


def join_of(options: argparse.Namespace, tau: float | None) -> tuple[str, Join]:
    """The join that the options ask for, and its name.

    Raises:
        InputError: options that contradict each other.
    """
    from everyframe.ensemble import vote, weighted

    count = len(options.members)
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
    if tau is not None:
        return f"soft sum, tau {tau:g}", weighted((tau, 1 - tau), options.score_norm)
    return f"mean of {count}", weighted((1.0,) * count, options.score_norm)
