"""What tests of the device part share: one small slide, rendered once."""

from __future__ import annotations

import pytest

from tests.edge.slide.slides import Ground, make_ground


@pytest.fixture(scope="session")
def ground() -> Ground:
    return make_ground()
