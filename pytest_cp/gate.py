"""The ready-made gate: `pytest --pyargs pytest_cp.gate --cp-spec gate.toml` runs what a specification requires.

No test is written here: pytest finds this module by its name, and the plugin puts a test in its place for each
candidate and each table of requirements of the specification.
"""
