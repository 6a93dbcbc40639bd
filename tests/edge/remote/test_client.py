"""Requests of one user, one after the other."""

from __future__ import annotations

import threading
import uuid

import pytest

from edge.remote.client import (
    NoAnswer,
    new_request,
    one_request_at_a_time,
    send_request,
)
from edge.settings.delivery import BrokerSettings


def a_user() -> BrokerSettings:
    return BrokerSettings(username=f"anna-{uuid.uuid4()}")


def test_two_requests_of_one_user_wait_for_each_other() -> None:
    anna, order = a_user(), []
    is_in = threading.Event()

    def second() -> None:
        is_in.wait(5)
        with one_request_at_a_time(anna, timeout_s=5):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with one_request_at_a_time(anna, timeout_s=5):
        is_in.set()
        thread.join(0.2)
        order.append("first")
    thread.join(5)

    assert order == ["first", "second"]


def test_one_that_waits_too_long_says_that_nothing_was_asked() -> None:
    anna = a_user()
    with (
        one_request_at_a_time(anna, timeout_s=1),
        pytest.raises(NoAnswer, match="nothing was sent"),
        one_request_at_a_time(anna, timeout_s=0.1),
    ):
        pass


def test_other_users_and_nobody_do_not_wait() -> None:
    with (
        one_request_at_a_time(a_user(), timeout_s=1),
        one_request_at_a_time(a_user(), timeout_s=0.1),
    ):
        pass
    with (
        one_request_at_a_time(BrokerSettings(), 1),
        one_request_at_a_time(BrokerSettings(), 0.1),
    ):
        pass


def test_a_request_that_has_expired_may_be_asked_again(address: BrokerSettings) -> None:
    """The device refuses it, or says what became of it before."""
    request = new_request("stop", "anna", lifetime_s=-100)

    with pytest.raises(NoAnswer, match="does not listen"):
        list(send_request(address, "scope-01", "stop", request, timeout_s=2))
