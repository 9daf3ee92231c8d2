"""Documents to render: a real run of the digits' gate, and one with hostile texts."""

import json

SPECIFICATION = """\
schema_version = 1
reference = {model = "cp_compress.examples:digits_cnn"}
data = {examples = "cp_compress.examples:digits"}

[[candidate]]
scheme = "prune(density=0.3)"

[[candidate]]
scheme = "prune(density=0.05)"

[[candidate]]
codec = "jpeg(quality=20)"

[predictions]
min_agreement = 0.95

[boundaries]
max_median_change = 0.02
examples = 12

[footprint]
candidates = ["prune(density=0.3)", "prune(density=0.05)"]
min_compression = 2

[[waiver]]
test = "*jpeg* boundaries"
metric = "median_change"
at_worst = 0.9
owner = "Ada"
reason = "field trial"
expires = 2999-01-01
"""
HIDDEN = "\x1b[2J\u202e"  # clears a terminal, and turns around what follows
HOSTILE = '<script>document.title="owned"</script><img src=x onerror=alert(1)>|`*_[a](javascript:alert(1))'


def with_hostile_texts(document):
    """Return a document in which every text that a user can choose tries to break out."""
    copy = json.loads(json.dumps(document))
    for check in copy["checks"]:
        check["test"] += HOSTILE
        check["notes"] += [HOSTILE, HIDDEN]
        for subject in check["subjects"].values():
            subject["name"] += HOSTILE
        for row in check["details"].get("classes", []):
            row["class"] = HOSTILE + HIDDEN
        for change in (check["evidence"] or {"examples": []})["examples"]:
            change["before"] = HOSTILE
    copy["notes"] += [HOSTILE, HIDDEN]
    copy["sections"].append({"title": HOSTILE, "text": HOSTILE})
    for waiver in copy["waivers"]:
        waiver["reason"] = HOSTILE
    return copy
