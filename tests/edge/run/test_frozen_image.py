from __future__ import annotations

import numpy as np

from edge.run.frozen_image import FrozenImageCheck, digest_of
from tests.conftest import frame_result

PIXELS = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)


def test_the_same_noise_again_and_again_is_no_live_picture() -> None:
    check = FrozenImageCheck(3)
    digests = [digest_of(PIXELS)] * 4 + [digest_of(PIXELS[::-1])]

    results = [check.judge(frame_result(), digest) for digest in digests]

    assert [r.status for r in results] == ["ok", "ok", "rejected", "rejected", "ok"]
    assert results[2].cells == ()
    assert "the last 3 frames are identical" in str(results[2].reason)


def test_a_gap_between_identical_frames_does_not_hide_them() -> None:
    check = FrozenImageCheck(2)

    results = [check.judge(frame_result(), digest) for digest in (7, None, 7)]

    assert [r.status for r in results] == ["ok", "ok", "rejected"]
