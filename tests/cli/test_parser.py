"""The parser that the verbs share."""

from __future__ import annotations

import pytest

from everyframe.cli.__main__ import main


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["predict", "x", "--modl", "a"], "everyframe predict: --modl is no option; did you mean --model?"),
        (["predict", "x", "--modl=a"], "--modl is no option; did you mean --model?"),
        (["evaluate", "--bootstrp", "9"], "did you mean --bootstrap?"),
        (["ensemble", "run", "a", "b", "--tau-form", "s"], "did you mean --tau-from or --tau?"),
        (["models", "--zzz"], "--zzz is no option; `everyframe models --help` lists all options"),
        (["predict", "x", "--mod", "a"], "required: --out"),  # an abbreviation
        (["predict", "x", "--model", "a", "--", "--modl"], "required: --out"),  # a file of that name
    ],
)
def test_a_mistyped_option_is_named_before_a_missing_one(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
    assert line.count("--help") == ("required" in told or "lists all" in told)


def test_a_mistyped_verb_is_told_the_one_that_is_close(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predct", "x"]) == 2
    assert "no verb 'predct'; did you mean predict? expected one of demo, data" in capsys.readouterr().err
    assert main(["zzz"]) == 2
    assert "no verb 'zzz'; expected one of" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["demo", "bench metrics", "evaluate --pred x --data y"])
def test_a_seed_below_0_is_refused(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([*command.split(), "--seed", "-1"])
    assert left.value.code == 2
    assert "--seed: expected a whole number from 0 on, came -1" in capsys.readouterr().err.splitlines()[-1]


def test_the_examples_of_ensemble_have_no_gaps(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["ensemble", "--help"])
    assert "--specialists-from \\\n      special/specialists.json" in capsys.readouterr().out
