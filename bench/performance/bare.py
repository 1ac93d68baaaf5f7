"""A scoring server without a protocol, a log or arms: what anybody would write who wants nothing but speed.

``python -m bench.performance.bare PORT PICKLE`` answers with scikit-learn on a NumPy array; with ``--compiled FILES`` in the
pickle's place it answers with the same compiled form that the gateway uses.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import uvicorn

_HEADERS = [(b"content-type", b"application/json")]


def _sklearn(pickle: Path) -> Callable[[list[list[Any]]], list[Any]]:
    import joblib
    import numpy as np

    predict = joblib.load(pickle).predict_proba
    return lambda rows: predict(np.array([row[1:] for row in rows])).tolist()  # type: ignore[no-any-return]


def _compiled(files: Path) -> Callable[[list[list[Any]]], list[Any] | None]:
    from mlflow import pyfunc

    from understudy.gateway.compiled import compile_model

    compiled, reason = compile_model(pyfunc.load_model(str(files)))
    if compiled is None:
        raise SystemExit(reason)
    predict = compiled.predict
    return lambda rows: predict([row[1:] for row in rows])


def _app(predict: Callable[[list[list[Any]]], list[Any] | None]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        body = message["body"]
        while message["more_body"]:
            message = await receive()
            body += message["body"]
        told = b"\n"
        if scope["path"] != "/ping":
            answers = predict(orjson.loads(body)["dataframe_split"]["data"])
            told = orjson.dumps({"predictions": answers})
        headers = [*_HEADERS, (b"content-length", b"%d" % len(told))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": told})

    return app


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("model", type=Path)
    parser.add_argument("--compiled", action="store_true")
    options = parser.parse_args()
    predict = (_compiled if options.compiled else _sklearn)(options.model)
    uvicorn.run(
        _app(predict),
        port=options.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        proxy_headers=False,
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
