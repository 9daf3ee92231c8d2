"""Exit with 0 only if the gate of this folder failed with both of its checks: expect_failures.py REPORT."""

import json
import sys
from pathlib import Path

report = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
outcomes = [check["outcome"] for check in report["checks"]]
caught = report["exit_status"] == 1 and outcomes == ["fail", "fail"]
print(
    "As expected, the gate caught both compressions."
    if caught
    else f"NOT CAUGHT: the outcomes of the checks were {outcomes}"
)
sys.exit(0 if caught else 1)
