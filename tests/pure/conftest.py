"""What the tests of the core share."""

from __future__ import annotations

import pytest
from hypothesis import settings

from tests.support.tree import Tree, planted

# Examples that are slow are those that another process delayed: this machine is not ours alone.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")


@pytest.fixture
def tree() -> Tree:
    """A root, a directory s with a file f in it, and a file f: unwatched."""
    return planted()
