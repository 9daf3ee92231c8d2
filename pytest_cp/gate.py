"""The ready-made gate: `pytest --pyargs pytest_cp.gate --cp-spec gate.toml` runs what a specification requires.

This module contains no tests. pytest finds it by its name, and the plugin replaces it by one test for each candidate
and each table of requirements of the specification.
"""
