"""The whole table of operations that are interrupted."""

from __future__ import annotations

__all__ = ["CASES"]

from . import group_cases, message_cases, recovery_cases, waiting_cases
from .cases import CASES

#: Each of these modules adds its cases to the table.
TABLES = (message_cases, group_cases, recovery_cases, waiting_cases)
