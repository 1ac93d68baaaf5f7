# One image for everything that runs Understudy's code: Airflow's parts, MLflow and the gateways.
FROM python:3.11-slim-bookworm AS build

WORKDIR /opt/understudy
COPY requirements/uv.txt requirements/production.txt requirements/
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --require-hashes -r requirements/uv.txt \
    && /opt/venv/bin/uv pip install --no-cache --compile-bytecode --python /opt/venv/bin/python \
        --require-hashes -r requirements/production.txt

COPY pyproject.toml README.md LICENSE ./
COPY plugins plugins
RUN /opt/venv/bin/uv pip install --no-cache --python /opt/venv/bin/python --no-deps --no-build-isolation --editable .


FROM python:3.11-slim-bookworm

RUN useradd --uid 10001 --create-home --home-dir /home/understudy understudy \
    && install -d -o understudy -g understudy /var/lib/understudy /var/lib/airflow /var/lib/airflow/logs /var/lib/airflow/passwords /var/lib/mlflow

WORKDIR /opt/understudy
COPY --from=build /opt/venv /opt/venv
COPY pyproject.toml README.md LICENSE ./
COPY plugins plugins
COPY config config
COPY dags dags
COPY experiments experiments
COPY expectations expectations

# config/ holds airflow_local_settings, which loads heavy libraries once in the parents of tasks.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/understudy/config:/opt/understudy/plugins \
    PYTHONUNBUFFERED=1 \
    AIRFLOW_HOME=/var/lib/airflow \
    UNDERSTUDY_HOME=/var/lib/understudy \
    MLFLOW_DISABLE_TELEMETRY=true \
    GX_ANALYTICS_ENABLED=false \
    MPLCONFIGDIR=/tmp/matplotlib

USER understudy
