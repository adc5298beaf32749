from __future__ import annotations

import io
import json
import os
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from doctor_sets import H, W, ids, noise, problems, save
from PIL import Image
from rich.console import Console

from everyframe.data.check_report import print_report
from everyframe.data.doctor import check
from everyframe.errors import InputError
from everyframe.io.video import VideoWriter


def test_counts_by_hand(root: Path) -> None:
    report = check(root)
    train, val = report.splits["train"], report.splits["val"]
    assert report.ok
    assert (train.frames, train.labels_per_video, val.frames, val.labels_per_video) == (6, [1, 0], 3, [1])
    assert train.pixels == {255: 10, 1: 10, 0: 60}
    assert train.masks == {255: 1, 1: 1, 0: 1}
    assert val.pixels == {0: 80}
    assert report.kinds == {"grey": 2}
    assert problems(report, "warning") == {
        "classes without a pixel in any mask: boat": [],
        "classes without a pixel in val: car": [],
    }


def test_unknown_ids_are_all_listed(root: Path) -> None:
    save(root / "masks/a/0.png", ids(1, r0=9, r1=9))
    save(root / "masks/a/2.png", ids(9, r7=14))
    report = check(root)
    assert not report.ok
    assert problems(report) == {
        "id 9 is not in the class table (90 pixels)": ["0.png", "2.png"],
        "id 14 is not in the class table (10 pixels)": ["2.png"],
    }
    assert report.errors[0].fix == "add `9: <class name>` or `9: ignore` to the classes file"
    assert report.unknown == {"9": 90, "14": 10}
    assert report.splits["train"].pixels == {255: 10, 1: 10, 0: 60 + 60}


@pytest.mark.parametrize(
    ("classes", "values", "hint"),
    [
        ("0: background\n1: object\n", (0, 255), "255 may well be the foreground"),
        ("0: background\n1: object\n", (0, 1, 255), "255 mostly means: not labelled"),
        ("1: a\n2: b\n", (0, 1, 2), "0 mostly means background"),
        ("0: a\n1: b\n", (1, 2), "the masks count from 1, the classes file from 0"),
        ("0: a\n1: b\n", (0, 2), ""),
    ],
)
def test_hint_of_an_unknown_id(root: Path, classes: str, values: tuple[int, ...], hint: str) -> None:
    (root / "classes.yaml").write_text(classes)
    for name in ("a/1", "b/0"):
        save(root / f"masks/{name}.png", ids(values[0], **{f"r{i}": v for i, v in enumerate(values)}))
    (finding,) = check(root).errors
    assert hint in finding.fix
    assert bool(hint) == ("(" in finding.fix)


def test_nothing_stops_the_check(root: Path) -> None:
    """Ten different faults in one data set, each named with its file."""
    jpeg = (root / "videos/a/0.jpg").read_bytes()
    (root / "videos/a/0.jpg").write_bytes(jpeg[: len(jpeg) // 2])  # an unlabelled frame, truncated
    (root / "videos/c/0.jpg").write_bytes(b"")  # left out, with a warning
    (root / "videos/c/1.jpg").write_bytes(b"not a picture at all")
    save(root / "masks/a/0.png", noise(1))  # RGB without colours
    save(root / "masks/a/2.png", ids(1)[:4])  # other size
    save(root / "masks/b/1.png", np.repeat(ids(1)[..., None], 3, axis=2))
    png = save(root / "masks/b/2.png", noise(2)[..., 0]).read_bytes()
    (root / "masks/b/2.png").write_bytes(png[:-30])  # truncated
    save(root / "masks/c/2.png", np.zeros((H, W), np.uint8))  # everything left out
    save(root / "masks/c/7.png", ids(1))  # no such frame
    save(root / "videos/d/0.jpg", noise(5))
    save(root / "videos/d/1.jpg", noise(5, (H, W + 2)))
    (root / "train.txt").write_text("a\nc\nd\nnobody\n")
    report = check(root)
    errors, warnings = problems(report), problems(report, "warning")
    assert errors.pop("a mask of 10x4 pixels on a frame of 10x8") == ["2.png"]
    assert errors.pop("an RGB mask, but the classes have no colours") == ["0.png"]
    assert errors.pop("an RGB mask with three equal channels") == ["1.png"]
    assert errors.pop("frames of different sizes in one video (10x8, 12x8)") == ["d"]
    assert errors.pop("a frame that cannot be read: damaged: not a picture") == ["1.jpg"]
    assert errors.pop("a mask without a frame of that name (1 of 2 in " + str(root / "masks/c") + ")") == ["7.png"]
    assert errors.pop(f"1 of 4 names have no data under {root}: nobody") == ["train.txt"]
    truncated = {what: files for what, files in errors.items() if "damaged: " in what}
    assert sorted(file for files in truncated.values() for file in files) == ["0.jpg", "2.png"]
    assert len(errors) == len(truncated)
    assert warnings.pop("an empty file (0 bytes); these frames are left out") == ["0.jpg"]
    assert warnings.pop("a mask with every pixel left out") == ["2.png"]
    assert all(finding.fix or "expected" in finding.what for finding in report.findings)


def test_truncated_unlabelled_frame_whose_end_looks_right(root: Path) -> None:
    """Cheap looks do not see a hole in the middle; `decode_all` reads every pixel."""
    path = save(root / "videos/c/1.png", noise(3, (64, 64)))
    (root / "videos/c/1.jpg").unlink()
    data = bytearray(path.read_bytes())
    data[200:1200] = bytes(1000)
    path.write_bytes(data)
    for name in ("0.jpg", "2.jpg"):
        save(root / "videos/c" / name, noise(4, (64, 64)))
    assert check(root).ok
    assert not check(root, decode_all=True).ok


def test_colour_masks(root: Path) -> None:
    (root / "classes.yaml").write_text(
        "0: {name: ignore, color: [0, 0, 0]}\n1: {name: road, color: [9, 9, 8]}\n2: {name: car, color: [1, 2, 3]}\n"
    )
    rgb = np.full((H, W, 3), (9, 9, 8), np.uint8)
    rgb[0], rgb[1] = (0, 0, 0), (1, 2, 3)
    save(root / "masks/a/1.png", rgb)
    rgb[2, :4] = (7, 7, 7)
    save(root / "masks/b/0.png", rgb)
    report = check(root)
    assert report.splits["train"].pixels == {255: 10, 1: 10, 0: 60}
    assert report.splits["val"].pixels == {255: 10, 1: 10, 0: 56}
    assert problems(report) == {"colour (7, 7, 7) is not in the class table (4 pixels)": ["0.png"]}
    assert report.kinds == {"RGB": 2}


def test_many_colours_and_jpeg_masks(root: Path) -> None:
    (root / "classes.yaml").write_text("1: {name: road, color: [9, 9, 8]}\n2: car\n")
    save(root / "videos/a/1.jpg", noise(1, (80, 80)))
    for i in (0, 2):
        save(root / f"videos/a/{i}.jpg", noise(i, (80, 80)))
    save(root / "masks/a/1.png", noise(9, (80, 80)))
    (root / "masks/b/0.png").unlink()
    save(root / "masks/b/0.jpg", ids(1))
    errors = problems(check(root))
    assert errors["an RGB mask with thousands of colours"] == ["1.png"]
    assert errors["a mask stored as JPEG, which changes ids"] == ["0.jpg"]


def test_the_ids_of_a_jpeg_mask_are_one_finding(root: Path) -> None:
    (root / "masks/a/1.png").unlink()
    for path, smooth in ((root / "masks/a/1.jpg", noise(9)[..., 0]), (root / "masks/b/1.jpg", noise(8))):
        save(path, smooth, quality=50)
    report = check(root)
    assert problems(report) == {"a mask stored as JPEG, which changes ids": ["1.jpg", "1.jpg"]}
    assert len(report.unknown) > 24, "they are counted all the same"


def test_a_mask_of_dozens_of_unknown_ids_is_one_finding(root: Path) -> None:
    smooth = np.arange(H * W, dtype=np.uint8).reshape(H, W)
    save(root / "masks/a/0.png", smooth)
    save(root / "masks/a/2.png", ids(1, r0=9))
    assert problems(check(root)) == {
        "a mask with 24 or more ids that are not in the class table": ["0.png"],
        "id 9 is not in the class table (11 pixels)": ["2.png"],
    }


def test_many_unknown_ids_over_many_masks_are_few_lines(root: Path) -> None:
    for i in range(13):
        save(root / f"videos/a/{i}.jpg", noise(40 + i))
        save(root / f"masks/a/{i}.png", ids(1, r0=20 + i, r1=20 + i if i < 10 else 1))
    errors = problems(check(root))
    assert [what for what in errors if what.startswith("id ")] == [
        f"id {i} is not in the class table (20 pixels)" for i in range(20, 30)
    ]
    assert errors["3 more ids are not in the class table: 30, 31, 32"] == ["10.png", "11.png", "12.png"]


def test_palette_that_contradicts_the_colours(root: Path) -> None:
    (root / "classes.yaml").write_text("1: {name: road, color: [9, 9, 9]}\n2: {name: car, color: [1, 2, 3]}\n")
    picture = Image.fromarray(ids(1))
    picture.putpalette([0, 0, 0, 1, 2, 3, 9, 9, 9])  # id 1 painted as `car`
    picture.save(root / "masks/a/1.png")
    assert problems(check(root)) == {"a palette mask whose colours say other classes than its ids": ["1.png"]}
    picture.putpalette([0, 0, 0, 9, 9, 9, 1, 2, 3])
    picture.save(root / "masks/a/1.png")
    assert check(root).ok


def test_16_bit_masks(root: Path) -> None:
    save(root / "masks/a/1.png", ids(1).astype(np.uint16) * 300)
    assert problems(check(root)) == {"id 300 is not in the class table (80 pixels)": ["1.png"]}


def test_video_files(root: Path) -> None:
    with VideoWriter(root / "videos/film.mp4", size=(32, 48), rate=Fraction(25)) as writer:
        for i in range(5):
            writer.write(np.full((32, 48, 3), 40 * i, np.uint8), i / 25)
    save(root / "masks/film/3.png", np.ones((32, 48), np.uint8))
    save(root / "masks/film/4.png", ids(1))
    (root / "videos/empty.mp4").write_bytes(b"")
    (root / "train.txt").write_text("a\nfilm\nempty\n")
    report = check(root)
    assert report.splits["train"].frames == 3 + 5
    errors = problems(report)
    assert errors.pop("a mask of 10x8 pixels on a frame of 48x32") == ["4.png"]
    ((what, files),) = errors.items()
    assert what.startswith("the video cannot be read: ")
    assert files == ["empty.mp4"]


def test_a_video_that_is_cut_off_is_not_fit_for_training(root: Path) -> None:
    """Its frames before the cut decode, so that only validation, hours later, would stumble over the end."""
    film = root / "videos/film.mkv"
    with VideoWriter(film, size=(32, 48), rate=Fraction(25)) as writer:
        for i in range(60):
            writer.write(noise(i, (32, 48)))
    save(root / "masks/film/3.png", np.ones((32, 48), np.uint8))
    (root / "train.txt").write_text("a\nfilm\n")
    assert check(root, decode_all=True).ok
    film.write_bytes(film.read_bytes()[: film.stat().st_size * 2 // 3])
    report = check(root)
    assert 3 < report.splits["train"].frames < 63
    (what,) = problems(report)
    assert what == "a frame that cannot be read: the video is cut off after it, the rest of the file is missing"


def test_damage_in_the_middle_of_a_video_is_found_by_decoding_all(root: Path) -> None:
    film = root / "videos/film.mp4"
    with VideoWriter(film, size=(32, 48), rate=Fraction(25)) as writer:
        for i in range(60):
            writer.write(noise(i, (32, 48)))
    (root / "train.txt").write_text("a\nfilm\n")
    with av.open(str(film)) as container:
        at, size = [(packet.pos, packet.size) for packet in container.demux(video=0)][20]
    data = bytearray(film.read_bytes())
    data[at : at + size] = b"\xff" * size
    film.write_bytes(data)
    assert check(root).ok
    ((what, files),) = problems(check(root, decode_all=True)).items()
    assert what.startswith("a frame that cannot be read: expected a whole video, decoded ")
    assert files == ["film.mp4"]


def test_same_picture_in_two_splits(root: Path) -> None:
    (root / "videos/b/0.jpg").write_bytes((root / "videos/a/1.jpg").read_bytes())
    report = check(root)
    assert report.ok
    assert problems(report, "warning")["the same labelled picture in two splits"] == ["1.jpg", "0.jpg"]
    (root / "val.txt").write_text("b\na\n")
    assert "videos in more than one split: a" in problems(check(root), "warning")


def test_classes_that_only_other_splits_have(root: Path) -> None:
    save(root / "masks/b/0.png", ids(3))
    assert "classes in other splits but not in train: boat" in problems(check(root), "warning")


def test_one_labelled_video_leaves_nothing_to_validate_on(root: Path) -> None:
    for name in ("train.txt", "val.txt", "masks/b/0.png"):
        (root / name).unlink()
    report = check(root)
    (finding,) = [finding for finding in report.warnings if "validate" in finding.what]
    assert report.ok
    assert "label a second video" in finding.fix
    assert finding.fix.endswith("--data.val_split null")
    assert not [f for f in check(root, ["train"]).warnings if "validate" in f.what]
    console = Console(width=400, file=io.StringIO(), record=True)
    print_report(report, console)
    assert "3 classes, 1 grey mask\n" in console.export_text()


def test_no_labels_no_classes_no_data(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (root / "masks/a/1.png").unlink()
    assert "no labelled frame in split train" in problems(check(root))
    (root / "classes.yaml").unlink()
    (finding,) = check(root).errors  # once, not once per split
    assert "found no file; write it" in finding.what
    assert not check(tmp_path_factory.mktemp("empty")).ok
    with pytest.raises(InputError, match="check the path"):
        check(root / "nothing")


def test_report_as_json_and_as_text(root: Path) -> None:
    for i in (0, 2):
        save(root / f"masks/a/{i}.png", ids(9))
    for i in range(12):
        save(root / f"videos/b/{10 + i}.jpg", noise(100 + i))
        save(root / f"masks/b/{10 + i}.png", ids(9))
    report = check(root)
    data = json.loads(json.dumps(report.to_dict()))
    assert data["ok"] is False
    assert len(data["errors"][0]["files"]) == 14
    assert data["splits"]["train"]["pixels"] == {"road": 60, "car": 10, "boat": 0}
    assert data["splits"]["train"]["labelled_frames"] == 3
    console = Console(width=100, file=io.StringIO(), record=True)
    print_report(report, console)
    printed = console.export_text()
    assert "and 9 more (all in --json)" in printed
    assert "training would be wrong: 1 error, 2 warnings" in printed
    assert "75.00" in printed  # road: 60 of the 80 pixels with a known id


@pytest.mark.parametrize("broken", ["masks/a/1.png", "videos/a/0.jpg", "videos/a/1.jpg"])
def test_a_header_that_claims_too_much_is_one_finding(root: Path, broken: str) -> None:
    (root / broken).unlink()
    (root / broken).with_suffix(".png").write_bytes(png_header(60_000, 60_000))
    report = check(root)
    assert len(report.errors) == 1
    assert "it claims more pixels than memory would hold" in report.errors[0].what


def png_header(width: int, height: int) -> bytes:
    """Return a grey PNG without pixels."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b"")]
    parts = (struct.pack(">I", len(x)) + kind + x + struct.pack(">I", zlib.crc32(kind + x)) for kind, x in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_turned_by_exif(root: Path) -> None:
    """A phone's picture is stored lying and read upright; the mask has the upright size."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for i in range(3):
        save(root / f"videos/a/{i}.jpg", noise(i, (W, H)), exif=exif)
    assert check(root).ok


def test_progress_and_one_thread(root: Path) -> None:
    calls: list[tuple[int, int]] = []
    one = check(root, workers=1, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(i + 1, 11) for i in range(11)]  # nine frames, two masks
    assert one.to_dict() == check(root, workers=4).to_dict()
    assert list(check(root, ["val"]).splits) == ["val"]


@pytest.mark.skipif("EVERYFRAME_DATA" not in os.environ, reason="EVERYFRAME_DATA names no folder of real data sets")
@pytest.mark.parametrize(("name", "pixels"), [("camvid_video", 701 * 480 * 360), ("davis16_clips", 560 * 427 * 240)])
def test_real_data_is_fit_for_training(name: str, pixels: int) -> None:
    report = check(Path(os.environ["EVERYFRAME_DATA"]) / name)
    assert report.ok
    assert sum(sum(count.pixels.values()) for count in report.splits.values()) == pixels
