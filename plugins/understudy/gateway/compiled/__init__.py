"""A loaded model as a plain function on decoded JSON rows, proved to answer what MLflow would answer.

``reading`` reads the steps of a fitted scikit-learn pipeline, ``matrix`` turns rows into the matrix its last step would get,
``linear`` and ``trees`` are that last step, ``proof`` compares the whole with MLflow's own path before it is used.
"""

from understudy.gateway.compiled.model import Compilation, Compiled, compile_model

__all__ = ["Compilation", "Compiled", "compile_model"]
