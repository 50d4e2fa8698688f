"""What the tests of this folder share."""

from __future__ import annotations

import pytest
from tiny import fresh_hub


@pytest.fixture(autouse=True)
def no_run_in_progress() -> None:
    """The run of an earlier test in this process is over."""
    fresh_hub()
