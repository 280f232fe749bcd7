"""Fixtures: the archives, built once in a test run."""

from __future__ import annotations

import pytest

from .archives import Archives, build_archives


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Archives:
    """The sdist and the wheel of this checkout."""
    return build_archives(tmp_path_factory.mktemp("archives"))
