"""Compress models and data sets, and measure what that changes in behaviour."""

from __future__ import annotations

__version__ = "0.1.0"
