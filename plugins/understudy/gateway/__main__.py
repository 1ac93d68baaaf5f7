"""Starts one gateway process: ``python -m understudy.gateway --model flight-delay --port 5080``."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from understudy import telemetry
from understudy.errors import UnderstudyError
from understudy.gateway.imports import importing, set_defaults
from understudy.gateway.logs import log_as_json
from understudy.settings import Settings
from understudy.spec import validate_folder

if TYPE_CHECKING:
    from understudy.gateway.config import GatewayConfig
    from understudy.gateway.service import Gateway

__all__ = ["main"]

_GRACE_SECONDS = 15


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve one model until told to stop.

    Args:
        arguments: Command line without the program's name; the process's own by default.

    Returns:
        Exit code: 0 after a clean stop, 2 when the gateway cannot be started as asked.
    """
    options = _parser().parse_args(arguments)
    log_as_json(options.model)
    set_defaults()
    warnings.filterwarnings("ignore", module="mlflow")
    try:
        _serve(options)
    except UnderstudyError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _serve(options: argparse.Namespace) -> None:
    from understudy.gateway.config import GatewayConfig, breaker_of, traffic_of

    settings = Settings.from_env()
    _ = settings.mlflow_uri  # refused here rather than at the first load
    experiments, broken = validate_folder(settings.experiments)
    for error in broken.values():
        # Somebody else's mistake must not keep this model from being served.
        logging.getLogger(__name__).warning("An experiment file is left out: %s", error.message)
    config = GatewayConfig(
        model=options.model,
        traffic=traffic_of(options.model, experiments),
        flags_path=settings.flags_path,
        events_dir=settings.events_dir,
        pseudonym_key=settings.pseudonym_key,
        challenger_timeout=options.challenger_timeout,
        champion_timeout=options.timeout,
        max_body_bytes=options.max_body_bytes,
        mirror_queue=options.mirror_queue,
        breaker=breaker_of(options.model, experiments),
        challenger_memory=options.challenger_memory * 1024**2,
    )
    _run(config, options.host, options.port)


def _run(config: GatewayConfig, host: str, port: int) -> None:
    with importing():
        import uvicorn

        from understudy.gateway.app import App
        from understudy.gateway.connection import Connection

    app = App(_gateway(config))
    uvicorn.run(
        app,
        host=host,
        port=port,
        # Both are chosen for speed, and a bounded connection knows this protocol class.
        loop="uvloop",
        http=partial(  # type: ignore[arg-type]
            Connection,
            answer_now=app.answer_now,
            max_body_bytes=config.max_body_bytes,
            receive_seconds=config.receive_seconds,
        ),
        ws="none",
        lifespan="on",
        proxy_headers=False,
        access_log=False,
        log_config=None,
        log_level="warning",
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )


def _gateway(config: GatewayConfig) -> Gateway:
    from understudy.gateway.service import Gateway

    os.environ.setdefault("OTEL_SERVICE_NAME", "understudy-gateway")
    tracer = telemetry.tracer()
    if tracer is None:
        return Gateway(config)
    from understudy.gateway.traced import TracedGateway

    return TracedGateway(config, tracer)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m understudy.gateway", description=__doc__)
    parser.add_argument("--model", required=True, help="registered model name")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5080)
    parser.add_argument(
        "--challenger-timeout", type=_positive, default=2.0, help="seconds until the champion answers"
    )
    parser.add_argument("--timeout", type=_positive, default=60.0, help="seconds until a request is given up")
    parser.add_argument("--max-body-bytes", type=int, default=32 * 1024 * 1024, help="largest accepted body")
    parser.add_argument("--mirror-queue", type=int, default=256, help="requests that may wait for the mirror")
    parser.add_argument(
        "--challenger-memory",
        type=int,
        default=4096,
        help="MiB of data that the challenger's process may hold",
    )
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be a positive number of seconds")
    return value


if __name__ == "__main__":
    sys.exit(main())
