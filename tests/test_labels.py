from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from everyframe.errors import InputError
from everyframe.frames import IGNORE
from everyframe.labels import LabelSpace, class_colors, distinct_colors


@pytest.fixture
def space() -> LabelSpace:
    """Ids 7 and 9 are one class, 0 and 255 are left out, -1 cannot stand in a PNG."""
    return LabelSpace(
        ("road", "car"),
        ((1, 2, 3), (4, 5, 6)),
        {-1: IGNORE, 0: IGNORE, 7: 0, 8: 1, 9: 0, 255: IGNORE},
        {(1, 2, 3): 7, (4, 5, 6): 8, (0, 0, 0): 0},
    )


def test_encode_by_hand(space: LabelSpace) -> None:
    raw = np.array([[0, 7, 8], [9, 255, 7]], np.uint8)
    encoded = space.encode(raw)
    assert encoded.tolist() == [[255, 0, 1], [0, 255, 0]]
    assert encoded.dtype == np.uint8


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64, np.uint16])
def test_encode_takes_any_integer(space: LabelSpace, dtype: type) -> None:
    raw = np.array([[0, 7, 8, 9]], dtype)
    assert space.encode(raw).tolist() == [[255, 0, 1, 0]]


def test_encode_takes_negative_ids(space: LabelSpace) -> None:
    assert space.encode(np.array([[-1, 7]], np.int32)).tolist() == [[255, 0]]


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_unknown_id_names_id_file_and_fix(space: LabelSpace, dtype: type) -> None:
    with pytest.raises(InputError, match=r"masks/a\.png: ids 3, 12 not in the class table.*`3: <class name>`.*ignore"):
        space.encode(np.array([[7, 12, 3]], dtype), "masks/a.png")


@pytest.mark.parametrize("raw", [np.array([[0.5]]), np.array([[True]])])
def test_encode_refuses_what_is_no_id(space: LabelSpace, raw: np.ndarray) -> None:
    with pytest.raises(InputError, match="whole numbers"):
        space.encode(raw)


def test_decode_gives_the_lowest_id(space: LabelSpace) -> None:
    assert space.decode(np.array([[0, 1, 255]], np.uint8)).tolist() == [[7, 8, 255]]


def test_decode_then_encode_is_the_identity() -> None:
    train = np.array([[0, 1, 2, 255]], np.uint8)
    for table in ({0: 255, 1: 0, 2: 1, 3: 2}, {5: 0, 6: 1, 7: 2, 255: 255}, {0: 0, 1: 1, 2: 2, 11: 255}):
        space = LabelSpace(("a", "b", "c"), raw_to_train=table)
        np.testing.assert_array_equal(space.encode(space.decode(train)), train)


def test_decode_where_255_is_a_class() -> None:
    foreground = LabelSpace(("background", "object"), raw_to_train={0: 0, 255: 1})
    assert foreground.decode(np.array([[0, 1]], np.uint8)).tolist() == [[0, 255]]
    with pytest.raises(InputError, match=r"an id in 0\.\.255, .* for ignore, came none; .*`1: ignore`"):
        foreground.decode(np.array([[IGNORE]], np.uint8))
    assert foreground.decode(np.array([[IGNORE]], np.uint8), ignore=9).tolist() == [[9]]


def test_decode_of_ids_beyond_one_byte_names_the_classes_and_the_line_to_add() -> None:
    space = LabelSpace(("road", "car"), raw_to_train={0: IGNORE, 1: 0, 1001: 1})
    assert space.encode(np.array([[0, 1, 1001]], np.uint16)).tolist() == [[IGNORE, 0, 1]]
    with pytest.raises(InputError, match=r"for car, came none; .*`2: car`"):
        space.decode(np.array([[0, 1]], np.uint8))
    second = LabelSpace(space.names, raw_to_train={**space.raw_to_train, 2: 1})
    assert second.decode(np.array([[0, 1, IGNORE]], np.uint8)).tolist() == [[1, 2, 0]]


def test_decode_refuses_other_types_and_classes(space: LabelSpace) -> None:
    with pytest.raises(InputError, match="uint8"):
        space.decode(np.array([[0]], np.int64))
    with pytest.raises(InputError, match=r"train ids \[5\]"):
        space.decode(np.array([[5]], np.uint8))


def test_default_table_is_the_identity_and_255() -> None:
    space = LabelSpace(("a", "b"))
    assert space.encode(np.array([[0, 1, 255]], np.uint8)).tolist() == [[0, 1, 255]]
    with pytest.raises(InputError, match="id 2 not"):
        space.encode(np.array([[2]], np.uint8))


def test_rgb_by_hand(space: LabelSpace) -> None:
    rgb = np.array([[[1, 2, 3], [4, 5, 6], [0, 0, 0]]], np.uint8)
    assert space.encode_rgb(rgb).tolist() == [[0, 1, 255]]


def test_rgb_equals_a_loop_over_pixels() -> None:
    colors = distinct_colors(40)
    space = LabelSpace(tuple(f"c{i}" for i in range(40)), colors, colors={c: i for i, c in enumerate(colors)})
    train = np.random.default_rng(0).integers(0, 40, (13, 17)).astype(np.uint8)
    rgb = np.array([[colors[i] for i in row] for row in train], np.uint8)
    np.testing.assert_array_equal(space.encode_rgb(rgb), train)


def test_rgb_with_unknown_colours_names_the_most_frequent(space: LabelSpace) -> None:
    rgb = np.array([[[9, 9, 9], [9, 9, 9], [255, 255, 255], [1, 2, 3]]], np.uint8)
    with pytest.raises(InputError, match=r"m\.png: 2 colours not in the table.*\(9, 9, 9\), \(255, 255, 255\)"):
        space.encode_rgb(rgb, "m.png")


def test_rgb_without_colours_says_what_to_give() -> None:
    with pytest.raises(InputError, match=r"labelmap\.txt"):
        LabelSpace(("a",)).encode_rgb(np.zeros((2, 2, 3), np.uint8))


def test_rgb_colour_of_an_id_that_the_table_lacks() -> None:
    space = LabelSpace(("a",), colors={(1, 1, 1): 5})
    with pytest.raises(InputError, match="id 5 not in the class table"):
        space.encode_rgb(np.zeros((1, 1, 3), np.uint8))


def test_colorize(space: LabelSpace) -> None:
    assert space.colorize(np.array([[0, 1, 255]], np.uint8)).tolist() == [[[1, 2, 3], [4, 5, 6], [0, 0, 0]]]


def test_mapped_into_other_classes(space: LabelSpace) -> None:
    target = LabelSpace(("vehicle", "ground"))
    mapped = space.mapped(target, {0: 1, 1: 0})
    assert mapped.names == target.names
    assert mapped.encode(np.array([[7, 8, 9, 0]], np.uint8)).tolist() == [[1, 0, 1, 255]]
    assert space.mapped(target, {1: 0}).encode(np.array([[7, 8]], np.uint8)).tolist() == [[255, 0]]
    with pytest.raises(InputError, match=r"0\.\.1 to map from"):
        space.mapped(target, {4: 0})


def test_json_round_trip(space: LabelSpace, tmp_path: Path) -> None:
    for each in (space, LabelSpace(("only",))):
        each.save(tmp_path / "labels.json")
        assert LabelSpace.load(tmp_path / "labels.json") == each
    assert json.loads((tmp_path / "labels.json").read_text())["ignore"] == 255
    assert pickle.loads(pickle.dumps(space)) == space


def test_another_ignored_id_is_not_read_over(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text('{"names": ["a"], "ignore": 0}')
    with pytest.raises(InputError, match=r'labels\.json: .*ignore 255, .*, came 0; .* \{"0": 255\} into raw_to_train'):
        LabelSpace.load(tmp_path / "labels.json")


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path: Path, space: LabelSpace) -> None:
    with pytest.raises(InputError, match=r"labels\.json: expected to write here, cannot"):
        space.save(tmp_path / "nowhere" / "labels.json")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"names": 3}', '{"names": []}', '{"names": ["a"], "palette": [[1]]}']
)
def test_load_of_something_else(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(InputError, match=r"labels\.json"):
        LabelSpace.load(tmp_path / "labels.json")


def test_load_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found no file"):
        LabelSpace.load(tmp_path / "labels.json")
    with pytest.raises(InputError, match="expected a label space"):
        LabelSpace.load(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": ()}, "1 to 255"),
        ({"names": ("a", "a")}, "twice: a"),
        ({"names": ("a",), "palette": ((0, 0, 0), (1, 1, 1))}, "1 colours"),
        ({"names": ("a",), "palette": ((0, 0, 256),)}, "0..255"),
        ({"names": ("a",), "raw_to_train": {0: 1}}, "train ids must be"),
        ({"names": ("a",), "colors": {}}, "at least one colour"),
    ],
)
def test_impossible_label_spaces(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        LabelSpace(**arguments)


def test_255_classes_have_distinct_colours() -> None:
    space = LabelSpace(tuple(map(str, range(255))))
    assert len(space) == 255
    assert distinct_colors(255) == distinct_colors(255)
    assert len(set(distinct_colors(64))) == 64


def test_background_is_grey_and_the_others_keep_their_colours() -> None:
    plain, named = LabelSpace(("a", "b", "c")), LabelSpace(("background", "b", "c"))
    assert named.palette == ((70, 70, 70), *plain.palette[1:])
    assert class_colors(("background", "b"), [None, (70, 70, 70)]) == (plain.palette[0], (70, 70, 70))  # one each
    assert LabelSpace(("background", "b"), palette=((1, 2, 3), (4, 5, 6))).palette == ((1, 2, 3), (4, 5, 6))


@pytest.mark.parametrize(
    ("own", "other", "words"),
    [
        (("a", "b"), ("a", "b"), ""),
        (("a", "c", "b"), ("a", "b", "c"), "train id 1 is 'c', not 'b'"),
        (("a",), ("a", "b"), "train id 1 is no class, not 'b'"),
        (("a", ""), ("a",), "train id 1 is '', not no class"),
    ],
)
def test_the_first_class_that_is_another(own: tuple[str, ...], other: tuple[str, ...], words: str) -> None:
    assert LabelSpace(own).unlike(LabelSpace(other)) == words
