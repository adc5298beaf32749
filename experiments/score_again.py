"""Score the models of a finished grid on other videos: the table of `everyframe reproduce`, over the same seeds.

    everyframe reproduce table1 --data vspw:camvid-clips --scale small --rows SSLTM --rows OCRNet --out results/table1
    python experiments/score_again.py results/table1 vspw:camvid-test-clips

Each model's report lies beside its first one, in cells/ROW/SEED/report-DATA-SPLIT; what is there is not measured anew.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

from everyframe import evaluate
from everyframe.metrics.results import Results
from everyframe.reproduce.plan import Cell, Setting, plan
from everyframe.reproduce.records import read_record
from everyframe.reproduce.table import Figures, Line, class_table, known, markdown, scores_of


def main() -> int:
    options = parser().parse_args()
    setting = setting_of(options.results)
    name = re.sub(r"[^A-Za-z0-9]+", "-", f"report-{options.data}-{options.split}")
    lines: dict[str, dict[int, Figures]] = {}
    for cell in trained(plan(setting)):
        report = cell.folder / name
        if not (report / "results.json").exists():
            model = cell.folder / "run" / "model"
            evaluate(model=model, data=options.data, split=options.split, out=report, **cell.row.look)
        figures = known(scores_of(Results.from_json(report / "results.json")))
        lines.setdefault(cell.row.label, {})[cell.seed] = figures
    rows = [Line(label, seeds, setting.seeds) for label, seeds in lines.items()]
    print("\n".join(markdown(setting, rows, []).splitlines()[4:]))
    print(f"\n{class_table(rows)}", end="")
    return 0


def setting_of(results: Path) -> Setting:
    """Return the setting of the grid in a folder, with as many seeds as lie there."""
    grid = json.loads((results / "grid.json").read_text(encoding="utf-8"))
    last = max((int(path.name.removeprefix("seed")) for path in results.glob("cells/*/seed*")), default=0)
    return Setting(grid["experiment"], grid["data"], results, grid["scale"], last + 1, grid["extra"])


def trained(cells: list[Cell]) -> Iterator[Cell]:
    """Yield the cells that are done and whose figures are those of a model that they trained."""
    for cell in cells:
        if not cell.row.members and read_record(cell).status == "done" and (cell.folder / "run" / "model").exists():
            yield cell


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("results", type=Path, help="folder of `everyframe reproduce`")
    made.add_argument("data", metavar="LAYOUT:ROOT", help="videos with labels to score on")
    made.add_argument("--split", default="val")
    return made


if __name__ == "__main__":
    raise SystemExit(main())
