"""Exit with 0 only if this folder's gate failed, and each of its checks with it: expect_failures.py REPORT."""

import json
import sys
from pathlib import Path

report = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
outcomes = [check["outcome"] for check in report["checks"]]
caught = report["exit_status"] == 1 and outcomes == ["fail", "fail"]
print("As it should be: both compressions were caught." if caught else f"NOT CAUGHT: the checks gave {outcomes}")
sys.exit(0 if caught else 1)
