"""What the tests of the core share."""

from __future__ import annotations

import pytest

from tests.support.tree import Tree, planted


@pytest.fixture
def tree() -> Tree:
    """A root, a directory s with a file f in it, and a file f: unwatched."""
    return planted()
