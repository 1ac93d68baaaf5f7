"""How Airflow starts, schedules and watches the lifecycle: operators, triggers, links, and what DAGs are built from.

Besides ``dags/`` this is the only room that imports Airflow. Whatever a DAG file needs is imported on every parse, so
modules here import the lifecycle, MLflow and the store inside functions only.
"""
