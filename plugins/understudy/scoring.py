"""Reads labelled datasets and scores frames with a loaded model, as the gateway does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from understudy.errors import ArtifactUnloadable, DataMissing, UnderstudyError, VersionIncompatible

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["one_per_row", "probabilities", "proven", "read_dataset"]


def read_dataset(path: Path, name: str) -> pd.DataFrame:
    """Read a Parquet dataset of a spec.

    Args:
        path: Where it lies.
        name: What the spec calls it, for messages.

    Raises:
        DataMissing: It is not there, not Parquet, or has no rows.
    """
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise DataMissing(
            f"The dataset {name} cannot be read from {path.parent} ({type(error).__name__}). The spec's `data` section needs "
            "a Parquet file there; check UNDERSTUDY_DATA and the path."
        ) from error
    if frame.empty:
        raise DataMissing(
            f"The dataset {name} has no rows, and no data never passes. Write it again with rows."
        )
    return frame


def probabilities(model: Any, frame: pd.DataFrame) -> NDArray[np.float64]:
    """Score a frame and return the probability of the positive class.

    Args:
        model: A loaded pyfunc model.
        frame: One row per request.

    Returns:
        One number per row.

    Raises:
        VersionIncompatible: The answer is neither one number per row nor two class probabilities per row.
    """
    # MLflow warns at length about every column that the signature does not name, so only those are handed over.
    wanted = [name for name in model.metadata.get_input_schema().input_names() if name in frame.columns]
    return one_per_row(model.predict(frame[wanted]), len(frame))


def one_per_row(answers: Any, rows: int) -> NDArray[np.float64]:
    """Return the probability of the positive class in each answer, whatever shape a model gave them.

    Args:
        answers: One number, or two class probabilities, per row.
        rows: How many rows were asked about.

    Raises:
        VersionIncompatible: The answers are no such thing.
    """
    found = np.asarray(answers, dtype=np.float64)
    if found.ndim == 2 and found.shape[1] in (1, 2):
        found = found[:, -1]
    if found.shape != (rows,):
        raise VersionIncompatible(
            f"The model answered with shape {found.shape} to {rows} rows. It must answer with one probability, or "
            "two class probabilities, per row; log it with `pyfunc_predict_fn='predict_proba'`."
        )
    return found


def proven(model: Any, frame: pd.DataFrame, version: str, source: str) -> NDArray[np.float64]:
    """Score a frame with a version that has to prove that it can.

    Args:
        model: A loaded pyfunc model.
        frame: One row per request.
        version: Whose model it is, for the message: ``"Version 3 of delay"``.
        source: Where the rows are from, for the message.

    Returns:
        One finite number per row.

    Raises:
        ArtifactUnloadable: It cannot score them, or answers with what is no number.
        VersionIncompatible: It answers with something else than one number per row.
    """
    try:
        answers = probabilities(model, frame)
    except UnderstudyError:
        raise
    except Exception as error:
        raise ArtifactUnloadable(
            f"{version} loads but cannot score {source} ({type(error).__name__}: "
            f"{str(error)[:200].partition(chr(10))[0]}). Compare its signature with the columns there."
        ) from error
    if not np.isfinite(answers).all():
        raise ArtifactUnloadable(
            f"{version} answers with values that are not numbers. Handle missing values in the model."
        )
    return answers
