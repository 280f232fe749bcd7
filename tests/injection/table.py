"""The whole table of operations that are cut short."""

from __future__ import annotations

__all__ = ["CASES"]

from . import group_cases, message_cases, recovery_cases, waiting_cases
from .cases import CASES

#: Each of these modules enters its operations into the table.
TABLES = (message_cases, group_cases, recovery_cases, waiting_cases)
