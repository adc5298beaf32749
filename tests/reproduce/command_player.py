"""A script that plays the commands of a grid: it writes what the real ones would, within milliseconds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from everyframe.metrics.results import Results, Score

PLAYER = """
import json, os, sys, time
from pathlib import Path

home = Path(__file__).parent
words = sys.argv[1:]
value = lambda key: words[words.index(key) + 1]
with (home / "calls.txt").open("a") as calls:
    calls.write(" ".join(words) + "\\n")
place = Path(value("--json") if words[0] == "bench" else value("--out"))
for line in (home / "behaviour.txt").read_text().splitlines():
    kind, where = line.split(" ", 1)
    if f"{words[0]} {where}" in f"{words[0]} {place}" or f"{words[0]}:" in where and where.split(":")[1] in str(place):
        if kind == "fail":
            print("everyframe: the disk is full")
            raise SystemExit(1)
        if kind == "quit":  # status 0 and nothing written, as training after SIGTERM
            raise SystemExit(0)
        if kind == "sleep":
            time.sleep(60)
if words[0] in ("train", "self-train"):
    (place / "model").mkdir(parents=True, exist_ok=True)
    (place / "model" / "model.safetensors").write_text("weights")
    (place / "checkpoints").mkdir(exist_ok=True)
    (place / "checkpoints" / "last.ckpt").write_text("much")
    (place / "outcome.json").write_text("{}")
    if words[0] == "self-train":
        stages = [{"name": "round0/train", "bytes": 7}, {"name": "round1/label", "bytes": 2000000,
                   "results": {"coverage": 0.75, "precision": 0.9}}]
        (place / "self_training.json").write_text(json.dumps({"stages": stages}))
elif words[1] in ("sweep", "specialists"):
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{words[1]}.json").write_text("{}")
elif words[0] in ("evaluate", "ensemble"):
    place.mkdir(parents=True, exist_ok=True)
    scores = json.loads((home / "scores.json").read_text())
    key = next((key for key in scores if key in str(place)), "")
    text = (home / "results.json").read_text().replace("0.123456", str(scores.get(key, 0.5)))
    half = f"-{value('--half')}" if "--half" in words else ""
    (place / f"results{half}.json").write_text(text)
    if "--save" in words:
        Path(value("--save")).mkdir(parents=True, exist_ok=True)
        (Path(value("--save")) / "labels.json").write_text("{}")
else:
    numbers = {"params": 1500000, "gmacs": 2.5, "state_bytes": 64, "frames_per_second": {"stream": 20.0}}
    place.write_text(json.dumps(numbers))
"""


class Player:
    """The script, and what it was asked."""

    def __init__(self, home: Path) -> None:
        self.home = home
        (home / "player.py").write_text(PLAYER)
        scores = [
            Score("mIoU", "in-ground-truth", 0.123456, 0.1, 0.3),
            Score("VC8", "correct", 0.9),
            Score("VC16", "correct", float("nan")),
            Score("TC", "strict", 0.7),
        ]
        (home / "results.json").write_text(Results(scores, [], [], []).to_json())
        self.behave()
        self.score({})

    @property
    def program(self) -> tuple[str, ...]:
        return (sys.executable, str(self.home / "player.py"))

    @property
    def calls(self) -> list[str]:
        file = self.home / "calls.txt"
        return file.read_text().splitlines() if file.exists() else []

    def verbs(self) -> list[str]:
        return [call.split()[0] for call in self.calls]

    def forget(self) -> None:
        (self.home / "calls.txt").unlink(missing_ok=True)

    def behave(self, *lines: str) -> None:
        (self.home / "behaviour.txt").write_text("\n".join(lines))

    def score(self, scores: dict[str, float]) -> None:
        (self.home / "scores.json").write_text(json.dumps(scores))
