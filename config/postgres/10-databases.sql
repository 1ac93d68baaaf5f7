-- Run once by the postgres image when its volume is empty. Airflow, MLflow and Understudy's own store share the server,
-- never a database: each migrates its own.
CREATE DATABASE mlflow;
CREATE DATABASE understudy;
