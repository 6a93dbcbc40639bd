from __future__ import annotations

import pytest

from edge.sources.redaction import without_secrets


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://user:xyz@host/1",
        "rtsp://user:a@xyz@host/1",
        "rtsp://user:a/xyz@host/1",
        "http://host/mjpg?pwd=xyz&size=1",
        "rtspsrc location=rtsp://host user-pw=xyz ! decodebin",
        "rtspsrc user-pw = xyz ! decodebin",
        'rtspsrc user-pw="my xyz word" ! decodebin',
        "souphttpsrc location=http://host/a?apikey=xyz ! jpegdec",
    ],
)
def test_no_secret_is_shown(text: str) -> None:
    shown = without_secrets(text)

    assert "xyz" not in shown
    assert "word" not in shown
    assert "host" in shown or "rtspsrc" in shown


@pytest.mark.parametrize(
    "text", ["/dev/v4l/by-id/usb-A17-index0", "videotestsrc ! video/x-raw,width=320"]
)
def test_what_holds_no_secret_is_shown_as_it_is(text: str) -> None:
    assert without_secrets(text) == text
