"""The specification that tests of `--cp-spec` change."""

import textwrap

SPECIFICATION = """\
schema_version = 1

[reference]
model = "subjects:make_model"

[data]
examples = "subjects:make_data"

[[candidate]]
scheme = "prune(density=0.4)"

[predictions]
min_agreement = 0.5
"""


def added(text, old="", new=""):
    return SPECIFICATION.replace(old, new) + textwrap.dedent(text)
