"""Members of other sizes in one ensemble: each looks at frames in its own way, as it would alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from two_frames import SPACE, write_two_frames

from everyframe.cli.__main__ import main
from everyframe.cli.ensemble_members import absolute, short_names
from everyframe.data.layouts import load_split
from everyframe.data.reading import read_frame
from everyframe.errors import InputError
from everyframe.inference.labelmap import label_map
from everyframe.inference.member_text import read_member
from everyframe.inference.stream import Stream, to_numpy
from everyframe.inference.tta import Scales
from everyframe.inference.views import with_views
from everyframe.inference.window import Window
from everyframe.io.label_png import read_raw
from everyframe.models.checkpoint import save
from everyframe.models.zoo import create_model

SIZE = (40, 72)
FIRST, SECOND = "short=64,window=64x96,stride=48x64,flip", "window=32x48,scales=0.5+1"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of two frames, and two models with random weights, of other strides."""
    root = tmp_path_factory.mktemp("members")
    write_two_frames(root / "data")
    for i, name in enumerate(("fcn-tiny", "uper-tiny")):
        torch.manual_seed(i)
        save(create_model(name, SPACE), root / name)
    return root


def test_an_ensemble_of_two_settings_is_the_average_of_what_each_gives_alone(root: Path, tmp_path: Path) -> None:
    data = f"vspw:{root / 'data'}"
    one, two = str(root / "fcn-tiny"), str(root / "uper-tiny")
    members = [f"{one}@{FIRST}", f"{two}@{SECOND}"]
    common = ["--data", data, "--device", "cpu", "--quiet"]
    for tau in ("0.3", "1", "0"):
        out = str(tmp_path / tau)
        assert main(["ensemble", "run", *members, *common, "--tau", tau, "--out", out]) == 0

    # Alone, through the options of predict: tau 1 and 0 are the members' own label maps.
    alone = {
        "1": [one, "--short", "64", "--window", "64", "96", "--stride", "48", "64", "--flip"],
        "0": [two, "--window", "32", "48", "--scales", "0.5", "1"],
    }
    source = str(root / "data" / "data" / "v" / "origin")
    for tau, words in alone.items():
        out = str(tmp_path / f"alone{tau}")
        flags = ["--no-overlay", "--no-areas", "--quiet", "--device", "cpu", "--out", out]
        assert main(["predict", source, "--model", *words, *flags]) == 0
        for i in range(2):
            (png,) = Path(out).rglob(f"{i}.png")
            np.testing.assert_array_equal(read_raw(png), read_raw(tmp_path / tau / "v" / f"{i}.png"))

    # The weighted sum by hand, at the resolution of the finest member, which is the frame's own.
    (video,), _ = load_split(data, "val")
    streams = [
        Stream(with_views(one, short=64, window=(64, 96), stride=(48, 64), flip=True), "cpu"),
        Stream(with_views(two, window=(32, 48), scales=(0.5, 1)), "cpu"),
    ]
    for i in range(2):
        shares = []
        for stream in streams:
            logits = stream.logits(read_frame(video, i))
            assert tuple(logits.shape[-2:]) == SIZE
            shares.append(logits.softmax(1))
        expected = label_map((0.3 * shares[0] + 0.7 * shares[1]).log(), SIZE)[0]
        got = read_raw(tmp_path / "0.3" / "v" / f"{i}.png")
        np.testing.assert_array_equal(got, to_numpy(expected) + 1)
        assert len({shares[0].argmax(1).sum().item(), shares[1].argmax(1).sum().item()}) == 2  # the members differ


def test_frames_of_a_short_side_have_sides_of_a_multiple_and_labels_their_own_size(root: Path) -> None:
    seen: list[tuple[int, ...]] = []

    class Size(torch.nn.Module):
        label_space = SPACE

        def step(self, frame: torch.Tensor, state: object = None) -> tuple[torch.Tensor, object]:
            seen.append(tuple(frame.shape[-2:]))
            return frame.float().mul(0.1), state

    with_views(Size(), short=896, window=896, stride=512).step(torch.zeros(1, 3, 480, 853, dtype=torch.uint8))  # type: ignore[arg-type]
    assert seen == [(896, 896)] * 3  # 480p at 896 x 1592.3, that is 896 x 1600: three windows, as published
    frame = torch.randint(0, 256, (1, 3, 30, 50), dtype=torch.uint8)
    logits, _ = with_views(Size(), short=60).step(frame)  # type: ignore[arg-type]
    assert seen[-1] == (64, 128)  # 60 x 100 rounded up
    expected = F.interpolate(frame.float(), (64, 128), mode="bilinear").round()
    torch.testing.assert_close(logits, F.interpolate(expected * 0.1, (30, 50), mode="bilinear"))  # no finer than it
    with pytest.raises(InputError, match="short side of at least 1 pixel, came -1"):
        with_views(Size(), short=-1)  # type: ignore[arg-type]


def test_settings_are_read() -> None:
    assert read_member("runs/a") == ("runs/a", {})
    assert read_member("runs/a@480/320") == ("runs/a", {"window": 480, "stride": 320})
    assert read_member("runs/a@480x640,flip") == ("runs/a", {"window": (480, 640), "flip": True})
    everything = "owner/name@short=896,window=896x640,stride=512,flip=no,scales=0.75+1"
    expected = {"short": 896, "window": (896, 640), "stride": 512, "flip": False, "scales": (0.75, 1.0)}
    assert read_member(everything) == ("owner/name", expected)


def test_settings_are_no_part_of_a_name(root: Path) -> None:
    assert short_names(["runs/a@480/320", "runs/b"]) == ["a", "b"]
    assert short_names(["runs/a@short=64,flip", "runs/a"]) == ["runs/a@short=64,flip", "runs/a"]
    assert absolute(f"{root / 'fcn-tiny'}@flip") == f"{(root / 'fcn-tiny').resolve()}@flip"
    assert absolute("owner/name@flip") == "owner/name@flip"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("shrot=896", "did you mean short[?] Write m@short=896,window=896x896,stride=512"),
        ("big", "expected settings short, window, stride, flip, scales behind the @, or a window's size, came 'big'"),
        ("short=large", "expected short=PIXELS, such as 896, came 'large'"),
        ("window=480x", "expected window=SIDE or HEIGHTxWIDTH in pixels, such as 896 or 480x640, came '480x'"),
        ("480/x", "expected stride=SIDE or HEIGHTxWIDTH"),
        ("flip=maybe", "expected flip=yes or no, came 'maybe'"),
        ("scales=1,x2", "expected settings short"),
        ("scales=1+", "expected scales=FACTOR"),
        ("480/320,stride=5", "expected stride once"),
    ],
)
def test_what_cannot_be_read_is_named(settings: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_member(f"m@{settings}")


def test_a_members_own_settings_win_over_those_of_all(root: Path) -> None:
    from everyframe.cli.ensemble import parser
    from everyframe.cli.ensemble_members import members_of

    model = str(root / "fcn-tiny")
    words = [f"{model}@flip=no,window=32", f"{model}@scales=0.5+2", model, "--flip", "--data", "d", "--out", "o"]
    one, two, three = members_of(parser().parse_args(["run", *words, "--device", "cpu"]))
    assert isinstance(one.predictor, Window)  # type: ignore[attr-defined]
    assert isinstance(two.predictor.predictor, Scales)  # type: ignore[attr-defined]
    assert type(three.predictor).__name__ == "Flip"  # type: ignore[attr-defined]


def test_logits_stay_on_their_device_until_they_are_joined(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[torch.dtype] = []
    before = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor, *more: (fetched.append(tensor.dtype), before(tensor))[1])
    members = [str(root / "fcn-tiny"), str(root / "uper-tiny")]
    words = ["--data", f"vspw:{root / 'data'}", "--device", "cpu", "--quiet", "--out", str(tmp_path)]
    assert main(["ensemble", "run", *members, *words]) == 0
    assert fetched == [torch.uint8] * 6  # label maps: of the join and of each member, in two frames


def test_settings_of_stored_scores_are_refused(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, model = f"vspw:{root / 'data'}", str(root / "fcn-tiny")
    common = ["--device", "cpu", "--quiet", "--out"]
    assert main(["ensemble", "store", f"{model}@{SECOND}", data, *common, str(tmp_path / "maps")]) == 0
    words = [f"{tmp_path / 'maps'}@flip", model, "--data", data, *common, str(tmp_path / "out")]
    assert main(["ensemble", "run", *words]) == 1
    assert "expected score maps alone, came settings behind the @" in capsys.readouterr().err
