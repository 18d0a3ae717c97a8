"""List filters by AIP-160, compiled to SQL conditions that mean the same on SQLite and PostgreSQL."""

from __future__ import annotations

from models.filters.fields import Field, Fields, Kind
from models.filters.resources import FIELDS
from models.filters.sql import condition
from models.filters.syntax import FilterError, Node, parse

__all__ = ["FIELDS", "Field", "Fields", "FilterError", "Kind", "Node", "condition", "parse"]
