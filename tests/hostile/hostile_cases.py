"""All cases; importing this fills the corpus."""

from hostile_registry import CASES, Case, cases_of, groups

__all__ = ["CASES", "Case", "cases_of", "groups"]
