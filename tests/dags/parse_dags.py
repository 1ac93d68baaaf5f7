"""Parses ``dags/`` the way Airflow does and prints what came of it. Run in a process of its own by the tests.

Reads a JSON list of jobs from standard input, each with the folder of experiments and the id of the DAG being run, or
null for the DAG processor. Prints one answer for each: the DAGs as Airflow serializes them, the import errors, and the
modules that the first parse brought in.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from airflow.dag_processing.dagbag import BundleDagBag
from airflow.serialization.serialized_objects import DagSerialization

DAGS = Path(__file__).resolve().parents[2] / "dags"


def parse(experiments: str, dag_id: str | None) -> dict[str, Any]:
    os.environ["UNDERSTUDY_EXPERIMENTS"] = experiments
    os.environ.pop("_AIRFLOW_PARSING_CONTEXT_DAG_ID", None)
    if dag_id:
        os.environ["_AIRFLOW_PARSING_CONTEXT_DAG_ID"] = dag_id
    bag = BundleDagBag(str(DAGS), bundle_path=DAGS, bundle_name="dags-folder", load_op_links=False)
    return {
        "dags": {name: DagSerialization.to_dict(dag)["dag"] for name, dag in bag.dags.items()},
        "errors": bag.import_errors,
        "modules": sorted(sys.modules),
    }


if __name__ == "__main__":
    answers = [parse(**job) for job in json.load(sys.stdin)]
    print("ANSWERS" + json.dumps(answers, default=str))
