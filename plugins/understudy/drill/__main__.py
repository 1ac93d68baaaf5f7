"""The process of a drill: ``python -m understudy.drill FOLDER``. Its environment names no server of production."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path

from understudy.drill.findings import Played
from understudy.errors import UnderstudyError
from understudy.spec import Experiment, Scenario

__all__ = ["main"]


def main(folder: Path) -> int:
    """Play the scenarios that are ordered in a folder, and write each down as soon as it has ended."""
    warnings.filterwarnings("ignore")
    logging.basicConfig(level=logging.WARNING)
    order = json.loads((folder / "order.json").read_text())
    from understudy.drill.play import play
    from understudy.drill.sandbox import Sandbox

    with (
        Sandbox(folder, Experiment.model_validate(order["experiment"])) as sandbox,
        (folder / "played.jsonl").open("a") as out,
    ):
        for scenario in map(Scenario, order["scenarios"]):
            try:
                played = play(sandbox, scenario)
                if played.disturbed:
                    logging.warning("%s is played again: %s", scenario.value, played.told)
                    played = play(sandbox, scenario)
            except UnderstudyError as error:
                logging.exception("%s broke off", scenario.value)
                played = Played(scenario, told=error.message, problems=("it broke off",))
            out.write(json.dumps(played.to_dict()) + "\n")
            out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
