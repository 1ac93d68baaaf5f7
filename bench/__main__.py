"""``make bench``: run the measurements named on the command line, or all of them."""

from __future__ import annotations

import argparse
import importlib
import pkgutil

import bench


def main() -> None:
    """Run ``main()`` of each chosen module in this folder."""
    known = sorted(
        module.name
        for module in pkgutil.iter_modules(bench.__path__)
        if module.name != "__main__" and not module.ispkg  # calibration is no measurement of speed
    )
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"which to run: {', '.join(known)}; default: all")
    names = parser.parse_args().names or known
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"there is no {', '.join(unknown)}; known are {', '.join(known)}")
    for name in names:
        print(f"== {name}", flush=True)
        importlib.import_module(f"bench.{name}").main()


if __name__ == "__main__":
    main()
