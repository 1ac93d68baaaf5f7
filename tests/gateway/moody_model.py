"""A challenger whose mood stands in a file and may change between two calls; loaded by MLflow, never imported by tests."""

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

import mlflow
import numpy as np


def eat_memory(rows):
    hoard = []
    while True:
        hoard.append(np.ones(1 << 23))


def leave_a_child_behind(rows):
    if os.fork():
        os._exit(3)
    time.sleep(3600)  # the child holds on to everything that its parent had open


def flood_the_output(rows):
    for stream in (1, 2):
        for _ in range(256):
            os.write(stream, b"x" * (1 << 16))
    return np.full((rows, 2), 0.5)


def burn(rows):
    until = time.monotonic() + 1
    table = np.ones((400, 400))

    def work():
        while time.monotonic() < until:
            table @ table

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return np.full((rows, 2), 0.5)


def refuse(rows):
    raise ValueError("cannot score this")


def linger(rows):
    time.sleep(0.2)
    return np.full((rows, 2), 0.5)


MOODS = {
    "sleeps": lambda rows: time.sleep(5),
    "lingers": linger,
    "hangs": lambda rows: time.sleep(3600),
    "holds the interpreter": lambda rows: ctypes.PyDLL(None).sleep(
        3600
    ),  # no other thread of the process runs
    "raises": refuse,
    "answers too often": lambda rows: np.full((rows + 1, 2), 0.5),
    "answers too seldom": lambda rows: np.full((rows - 1, 2), 0.5),
    "answers with one number": lambda rows: np.full(rows, 0.5),
    "answers NaN": lambda rows: np.full((rows, 2), np.nan),
    "answers with text": lambda rows: ["a" * 1000] * rows,
    "answers with an object": lambda rows: [[object(), 0.5]] * rows,
    "eats memory": eat_memory,
    "exits": lambda rows: os._exit(3),
    "raises SystemExit": lambda rows: sys.exit(3),
    "kills itself": lambda rows: os.kill(os.getpid(), signal.SIGKILL),
    "burns the processor": burn,
    "crashes": lambda rows: ctypes.string_at(0),
    "leaves a child behind": leave_a_child_behind,
    "floods its output": flood_the_output,
}


class MoodyModel(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        self.mood = Path(context.model_config["mood"])
        mood = self.mood.read_text()
        if mood == "hangs at load":
            time.sleep(3600)
        if mood == "raises at load":
            raise RuntimeError("these weights are not for me")

    def predict(self, context, model_input, params=None):
        rows = len(model_input)
        return MOODS.get(self.mood.read_text(), lambda rows: np.full((rows, 2), 0.5))(rows)


mlflow.models.set_model(MoodyModel())
