"""``make calibrate``: simulate everything, then write docs/calibration.md and the counts behind it.

Takes about 25 minutes on two free cores. Interrupted, it goes on where it was.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import sys
from pathlib import Path

# One thread per worker: the arrays are small, and the workers are as many as the cores.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"

_REPO = Path(__file__).resolve().parents[2]


def main() -> int:
    """Run what is missing and write the report; 1 if some world shows more false alarms than promised."""
    from bench.calibration import plan, report, runner

    parser = argparse.ArgumentParser(prog="make calibrate ARGS=...", description=__doc__)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument(
        "--scratch", type=Path, default=_REPO / ".understudy" / "calibration", help="where counts are kept"
    )
    parser.add_argument("--docs", type=Path, default=_REPO / "docs", help="where the report is written")
    parser.add_argument("--section", action="append", help="only these sections, and no report")
    chosen = parser.parse_args()
    jobs = [job for job in plan.full() if not chosen.section or job.section in chosen.section]
    facts = report.made(dt.datetime.now(dt.UTC).date())  # now: the code may have changed when all is counted
    found = runner.complete(jobs, chosen.scratch, chosen.workers)
    if not chosen.section:
        report.write(chosen.docs, facts, found)
        print(f"Written: {chosen.docs / 'calibration.md'} and calibration.json")
    failed = [] if chosen.section else report.failures(found)
    for line in failed:
        print(line, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
