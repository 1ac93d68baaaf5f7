"""The last resort: exposure to zero in the flag document when the store cannot be written."""

from __future__ import annotations

import fcntl
import json
import logging

from understudy.errors import FlagDocumentError
from understudy.exposure import Exposure, publish, read_flag
from understudy.rollback.progress import Order
from understudy.settings import Settings
from understudy.store import set_aside

__all__ = ["zero_without_store"]

log = logging.getLogger(__name__)


def zero_without_store(settings: Settings, order: Order) -> str:
    """Send everybody to the champion by the flag document alone, and remember the order for when the store works.

    The next generation is what the store gives to a drop of the same exposure, so that both agree once it can be written.

    Args:
        settings: The installation.
        order: What was asked for.

    Returns:
        What was done or could not be done, as sentences.
    """
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
        with (settings.home / "flags.lock").open("w") as lock:
            # Whoever publishes holds the same lock, so that the order is there before the next document is.
            fcntl.flock(lock, fcntl.LOCK_EX)
            kept = _kept(settings, order)
            return f"{_dropped(settings, order.model)} {kept}"
    except OSError as error:
        return (
            f"The folder {settings.home} cannot be written either ({error.strerror}), so exposure of {order.model} ends when "
            "its lease lapses: nobody renews it. Run the rollback again when the store works."
        )


def _kept(settings: Settings, order: Order) -> str:
    try:
        set_aside.keep(settings.home, order.to_dict())
    except OSError as error:
        return f"The order could not be kept ({error.strerror}); run the rollback again when the store works."
    return "The rest is done when the store works, by whoever writes it first or by `understudy rollback --resume`."


def _dropped(settings: Settings, model: str) -> str:
    path = settings.flags_path
    try:
        models = list(json.loads(path.read_bytes())["flags"])
        found = [exposure for name in models if (exposure := read_flag(path, name)) is not None]
        mine = next((exposure for exposure in found if exposure.model == model), None)
        if mine is None or mine.challenger is None:
            return f"The flag document exposes nobody to a challenger of {model}."
        dropped = Exposure(model, mine.generation + 1, mine.champion, feature_set=mine.feature_set)
        publish(path, [dropped if exposure.model == model else exposure for exposure in found])
    except (OSError, ValueError, KeyError, TypeError, FlagDocumentError) as error:
        return (
            f"The flag document {path} cannot be used either ({type(error).__name__}), so exposure of {model} ends when its "
            "lease lapses: nobody renews it."
        )
    log.error(
        "Exposure of %s was set to zero in the flag document alone: the store cannot be written.", model
    )
    return f"Exposure of {model} was set to zero in the flag document all the same."
