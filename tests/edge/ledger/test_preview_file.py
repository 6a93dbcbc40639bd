from __future__ import annotations

from pathlib import Path

from edge.ledger.preview_file import Preview, PreviewWriter, newest_preview


def test_only_the_newest_preview_is_kept(tmp_path: Path) -> None:
    writer = PreviewWriter(tmp_path, rate_hz=1000)
    for seq in (9, 10, 11):
        writer.write(Preview(seq, b"jpeg %d" % seq))

    assert newest_preview(tmp_path) == Preview(11, b"jpeg 11")
    assert len(list(tmp_path.iterdir())) == 1


def test_what_an_earlier_run_left_is_not_shown(tmp_path: Path) -> None:
    PreviewWriter(tmp_path, 10).write(Preview(9, b"old"))

    PreviewWriter(tmp_path, 10)

    assert newest_preview(tmp_path) is None


def test_previews_are_limited_to_their_rate(tmp_path: Path) -> None:
    writer = PreviewWriter(tmp_path, rate_hz=0.5)

    assert writer.is_due()
    writer.write(Preview(1, b"x"))
    assert not writer.is_due()
    assert not PreviewWriter(tmp_path, rate_hz=0).is_due()
