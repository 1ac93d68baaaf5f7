"""What a gateway, MLflow's scoring server and their models import, once for all that are forked from this process.

What starts a thread is left out: ONNX Runtime.
"""

from importlib import import_module

from understudy.gateway.imports import importing, set_defaults

set_defaults()
with importing():
    for name in (
        "mlflow.pyfunc.model",
        "mlflow.sklearn",
        "sklearn.compose",
        "sklearn.linear_model",
        "sklearn.pipeline",
        "sklearn.preprocessing",
        "skops.io",
        "understudy.gateway.app",
        "understudy.gateway.connection",
        "understudy.gateway.service",
        "uvicorn.lifespan.on",
        "uvicorn.loops.uvloop",
    ):
        import_module(name)
