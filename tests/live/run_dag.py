"""Run one DAG of the configured bundle with ``dag.test()`` and print what became of it, as JSON on the last line.

``python -m tests.live.run_dag DAG_ID CONF`` in a process of its own: Airflow reads its configuration once per process.
"""

from __future__ import annotations

import json
import sys

from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import BundleDagBag


def main(dag_id: str, conf: str) -> None:
    (bundle,) = [found for found in DagBundlesManager().get_all_dag_bundles() if found.name == "dags-folder"]
    bundle.initialize()
    bag = BundleDagBag(dag_folder=bundle.path, bundle_path=bundle.path, bundle_name=bundle.name)
    run = bag.dags[dag_id].test(run_conf=json.loads(conf))
    states = {task.task_id: str(task.state) for task in run.get_task_instances()}
    print(json.dumps({"run_id": run.run_id, "state": str(run.state), "tasks": states}))


if __name__ == "__main__":
    main(*sys.argv[1:])
