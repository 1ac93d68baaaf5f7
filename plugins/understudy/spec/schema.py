"""The JSON Schema of experiment files, for editors."""

from __future__ import annotations

import json

from understudy.spec.models import Experiment

__all__ = ["json_schema"]


def json_schema() -> str:
    """Return the JSON Schema as text, as it is kept in ``docs/reference/experiment.schema.json``."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Experiment.model_json_schema()
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
