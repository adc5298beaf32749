"""From a model's name to what labels frames: load it, and wrap it as the options say."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypedDict, cast

from everyframe.errors import InputError
from everyframe.flow import Flow
from everyframe.inference.flow_window import FlowWindow
from everyframe.inference.member_text import member_views, read_member
from everyframe.inference.predictor import Predictor
from everyframe.inference.prior import LogitAdjustment, read_class_pixels
from everyframe.inference.scores import ScoreNorm, own_norm
from everyframe.inference.smoothing import FlowSmoothing
from everyframe.inference.specialist_choice import SpecialistChoice
from everyframe.inference.specialists import Specialists
from everyframe.inference.trained_side import OwnSide, TrainedSide, trained_side
from everyframe.inference.tta import Flip, Scales
from everyframe.inference.window import Window
from everyframe.models.onnx_model import OnnxModel

MODEL_FILES = ("config.json", "model/config.json")
"""What the folder of a run holds once it has a model, or a model's folder itself."""

SIDES_OF = 32
"""Frames that are brought to another short side get sides of a multiple of this, as in the published tests."""


class Views(TypedDict, total=False):
    """The options of `with_views`, for functions that hand them on."""

    short: int | None
    window: tuple[int, int] | int | None
    stride: tuple[int, int] | int | None
    flip: bool
    scales: Sequence[float]
    score_norm: ScoreNorm | None
    offline: bool
    specialists: str | Path | None
    logit_adjustment: float
    prior: str | Path | None
    smooth: float
    smooth_window: int
    smooth_vote: bool
    smooth_flow: str | Flow


def with_views(
    model: str | Path | Predictor,
    *,
    short: int | None = None,
    window: tuple[int, int] | int | None = None,
    stride: tuple[int, int] | int | None = None,
    flip: bool = False,
    scales: Sequence[float] = (),
    score_norm: ScoreNorm | None = None,
    offline: bool = False,
    specialists: str | Path | None = None,
    logit_adjustment: float = 0.0,
    prior: str | Path | None = None,
    smooth: float = 0.0,
    smooth_window: int = 0,
    smooth_vote: bool = False,
    smooth_flow: str | Flow = "dis",
) -> Predictor:
    """Load a model where a path or hub id came, and wrap it, from the inside out in the order of the arguments below.

    Args:
        model: a saved model's folder, the folder of a run (its `model` is taken), a hub id, or a built predictor.
        offline: frames may look at later ones, see `everyframe.models.offline.Offline`: labels come later, and a model
            with a reference needs the end of the video first.
        window: (h, w) of a sliding window for frames larger than that, see `Window`.
        stride: distance of two windows.
        short: pixels of the short side at which frames are looked at, the sides rounded up to a multiple of
            `SIDES_OF`; label maps keep the frame's own size. None: that of the model's training
            (`Segmenter.short_side`), rounded as there, to whole pixels, also of a model that came wrapped; 0: frames as
            they are. See `Scales`.
        scales: average over resized frames, each cut into windows, see `Scales`.
        flip: average with the mirrored frame, see `Flip`.
        score_norm: what scales and flip average; None: probabilities of logits, and the sums of heads that predict
            masks as they are, see `view_norm`. "softmax" is what VSPW 2023's winner averaged of such sums.
        specialists: specialists.json of `everyframe ensemble specialists`, whose specialists then look at each frame in
            the same ways; see `Specialists`. What was written behind the @ of a member, the general one too, holds for
            that member in place of the options here.
        logit_adjustment: lambda, see `LogitAdjustment`; needs `prior`.
        prior: JSON of the classes' pixels in the training labels, see `read_class_pixels`. With it, and with `smooth`,
            sums of masks become shares, see "l1" of `ScoreNorm`: a softmax would flatten them.
        smooth: weight of the frame before, 0 up to but not 1, see `FlowSmoothing`.
        smooth_window: frames to either side that have a say, see `FlowWindow`, in place of `smooth`; labels come as
            many frames late.
        smooth_vote: the labels within `smooth_window` vote, in place of the mean of their probabilities.
        smooth_flow: optical flow along which is smoothed.

    Raises:
        InputError: the model cannot be loaded, the options do not fit it or each other, or it is an ensemble whose
            members were trained at several short sides and `short` says nothing.
    """
    if stride is not None and window is None:
        raise InputError(f"stride: expected a window as well, came stride {stride} alone; add --window")
    if score_norm is not None and not (flip or scales):
        raise InputError(f"score norm: expected views to average, came {score_norm} alone; add --flip or --scales")
    _check_smoothing(smooth, smooth_window, smooth_vote, smooth_flow)
    if bool(logit_adjustment) != (prior is not None):
        raise InputError(
            f"logit adjustment: expected a strength and the classes' pixels, came strength {logit_adjustment:g} and "
            f"prior {prior}; say both --logit-adjustment and --prior"
        )
    looking: Views = {
        "short": short, "window": window, "stride": stride, "flip": flip, "scales": scales,
        "score_norm": score_norm, "offline": offline,
    }  # fmt: skip
    if specialists is not None:
        choice = SpecialistChoice.load(specialists)
        members = [read_member(text) for text in choice.members]
        _check_general(model, members[0][0], specialists)
        parts = [
            with_views(name if at else model, **member_views(looking, own)) for at, (name, own) in enumerate(members)
        ]
        predictor: Predictor = Specialists(parts, choice.alphas, cast(ScoreNorm, choice.score_norm))
    else:
        predictor = loaded(model)
        if offline:
            predictor = _offline(predictor)
        if window is not None:
            predictor = Window(predictor, window, stride)
        predictor = _sized(predictor, short, scales, score_norm)
        if flip:
            predictor = Flip(predictor, score_norm)
    if prior is not None:
        predictor = LogitAdjustment(predictor, read_class_pixels(prior), logit_adjustment, own_norm(predictor))
    if smooth_window:
        return FlowWindow(predictor, smooth_window, smooth_vote, smooth_flow, score_norm=own_norm(predictor))
    return FlowSmoothing(predictor, smooth, smooth_flow, score_norm=own_norm(predictor)) if smooth else predictor


def _check_smoothing(smooth: float, window: int, vote: bool, flow: str | Flow) -> None:
    if smooth and window:
        raise InputError(
            f"smooth: expected the frame before to have a say or the frames around, came --smooth {smooth:g} and "
            f"--smooth-window {window}; leave one out"
        )
    if vote and not window:
        raise InputError("smooth vote: expected frames that vote, came none; add --smooth-window 1")
    if flow != "dis" and not (smooth or window):
        raise InputError(
            f"smooth flow: expected smoothing as well, came flow {flow} alone; add --smooth 0.4 or --smooth-window 1"
        )


def _sized(predictor: Predictor, short: int | None, scales: Sequence[float], score_norm: ScoreNorm | None) -> Predictor:
    """Let a predictor see frames at the short side asked for, else at that of its training, and at these scales."""
    if isinstance(predictor, OnnxModel) and (short or any(scale != 1 for scale in scales)):
        raise InputError(
            "scales, short: expected a model that looks at frames of any size, came one exported for "
            f"{' x '.join(map(str, predictor.size))}, to which it would bring every view; leave --scales and --short "
            f"out, or add --window {' '.join(map(str, predictor.size))}"
        )
    if short is None and (side := trained_side(predictor)) is not None:
        return TrainedSide(predictor, scales or (1.0,), score_norm=score_norm, short=side)
    if scales or short:
        predictor = Scales(predictor, scales or (1.0,), SIDES_OF if short else 1, score_norm, short=short or None)
    return OwnSide(predictor) if short == 0 else predictor  # else what takes the result next would ask for it again


def check_specialists(model: str | Path | Predictor, file: str | Path | None) -> None:
    """Refuse a file of specialists that were chosen beside another model; `with_views` does so of a model by its path.

    Raises:
        InputError: the file cannot be read, or names another model.
    """
    if file is not None:
        _check_general(model, read_member(SpecialistChoice.load(file).members[0])[0], file)


def _check_general(model: str | Path | Predictor, chosen: str, file: str | Path) -> None:
    """Refuse another general model than `chosen`, beside which the specialists' shares were chosen."""
    from everyframe.models.checkpoint import model_path

    if not isinstance(model, str | Path) or not chosen:
        return
    if Path(model_path(model)).resolve() != Path(model_path(chosen)).resolve():
        raise InputError(
            f"{file}: expected the model {chosen}, beside which these specialists were chosen, came {model}; "
            f"run `everyframe ensemble specialists` with {model}"
        )


def _offline(model: Any) -> Predictor:
    from everyframe.models.offline import Offline

    try:
        return Offline(model)
    except InputError as error:
        raise InputError(f"{error} (of `everyframe models` those named ssltm or tcb look at later frames)") from None


def loaded(model: str | Path | Predictor) -> Predictor:
    """Load a model where a path or hub id came.

    Raises:
        InputError: it cannot be loaded, the folder is that of a run without a model, or what came labels no frames.
    """
    if not isinstance(model, str | Path):
        lacks = [name for name in ("label_space", "step") if not hasattr(model, name)]
        if lacks:
            raise InputError(
                f"model: expected a saved model's folder, a hub id, or a model with label_space and "
                f"step(frame, state), came {type(model).__name__} without {' and '.join(lacks)}"
            )
        return model
    from everyframe.models.checkpoint import load

    check_run(Path(model))
    return load(model)


def check_run(path: Path) -> None:
    """Refuse the folder of a run that has written no model yet, or the place where it will lie.

    Raises:
        InputError: with what to do.
    """
    run = path.parent if path.name == "model" and not path.exists() else path
    if (run / "config.yaml").is_file() and not any((run / name).is_file() for name in MODEL_FILES):
        raise InputError(
            f"{path}: expected a model, this run has none yet (no validation was reached); go on with "
            f"`everyframe train {shlex.quote(str(run))} --resume auto`"
        )


def check_views(views: Mapping[str, Any], function: str) -> None:
    """Refuse options that `with_views` does not have.

    Args:
        views: as a function took them.
        function: its name, for the message.
    """
    for name in views:
        if name not in Views.__annotations__:
            near = get_close_matches(name, Views.__annotations__, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(Views.__annotations__)}"
            raise InputError(f"{function}: {name} is no option; {hint}")


def view_settings(**views: Any) -> dict[str, Any]:
    """Return the options of `with_views` as a record holds them: those in use, and always the first four."""
    record = {name: views.get(name) for name in ("window", "stride")}
    record |= {"flip": views.get("flip", False), "scales": list(views.get("scales", ()))}
    if views.get("offline"):
        record["offline"] = True
    if views.get("short") is not None:
        record["short"] = views["short"]
    for name in ("score_norm", "specialists", "prior"):
        if views.get(name) is not None:
            record[name] = str(views[name])
    if views.get("logit_adjustment"):
        record["logit_adjustment"] = views["logit_adjustment"]
    smoothing = {name: views[name] for name in ("smooth", "smooth_window", "smooth_vote") if views.get(name)}
    if smoothing:
        flow = views.get("smooth_flow", "dis")
        record |= {**smoothing, "smooth_flow": flow if isinstance(flow, str) else type(flow).__name__}
    return record


def view_notes(model: str | Path | Predictor, predictor: Predictor) -> list[str]:
    """Return sentences for a summary: what was loaded in place of what was named, at which size the model looks at
    frames without having been told, and what looking ahead means.

    Args:
        model: as it was named.
        predictor: what `with_views` made of it.
    """
    from everyframe.models.checkpoint import model_path
    from everyframe.models.offline import Offline

    notes = []
    if isinstance(model, str | Path) and model_path(model) != model:
        notes.append(f"{model} is the folder of a run: its model, {model_path(model)}, was taken")
    parts = list(predictor.modules()) if hasattr(predictor, "modules") else []
    notes += dict.fromkeys(part.describe() for part in parts if isinstance(part, Offline | FlowWindow))
    notes += dict.fromkeys(
        f"frames are looked at with a short side of {part.short} pixels, that of training; --short 0: as they are"
        for part in parts
        if isinstance(part, TrainedSide)
    )
    return notes
