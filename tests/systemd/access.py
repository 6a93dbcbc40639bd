"""Who may do what at the broker: declared here, measured on it, shown in the docs.

`python -m tests.systemd.access` prints the table of docs/security.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

from tests.systemd.broker import Client, ShippedBroker

NAMES = (
    *("result", "state", "alarm", "metrics", "preview"),
    *("cmd/resp/start", "cmd/req/start", "ack"),
)
TOPICS = {
    **{f"cells/v1/scope-01/{name}": f"own `{name}`" for name in NAMES},
    **{f"cells/v1/scope-02/{name}": f"another device's `{name}`" for name in NAMES},
    "cells/v1/archive/state": "`archive/state`",
    "cells/v1/archive/result": "the archive as a device",
    "cells/v1/dashboard/result": "a person as a device",
    "cells/v1/operator/cmd/resp/start": "a person's `cmd/resp`",
    "cells/v1/scope-01/firmware": "a topic that is not ours",
    "$SYS/broker/uptime": "`$SYS`",
}
SAID = NAMES[:6]  # by a device
SEEN = (*NAMES[:5], "ack")  # by who watches
DEVICES = ("scope-01", "scope-02")

WRITES = {
    "device": {f"cells/v1/scope-01/{name}" for name in SAID},
    "archive": {*(f"cells/v1/{d}/ack" for d in DEVICES), "cells/v1/archive/state"},
    "dashboard": set[str](),
    "operator": {f"cells/v1/{d}/cmd/req/start" for d in DEVICES},
    "anonymous": set[str](),
}
_ALL_SEEN = {f"cells/v1/{d}/{name}" for d in DEVICES for name in SEEN}
READS = {
    "device": {
        "cells/v1/scope-01/ack",
        "cells/v1/scope-01/cmd/req/start",
        "cells/v1/archive/state",
    },
    "archive": {
        *(f"cells/v1/{d}/{n}" for d in DEVICES for n in ("result", "state", "alarm")),
        "cells/v1/archive/state",
    },
    "dashboard": _ALL_SEEN | {"cells/v1/archive/state"},
    "operator": _ALL_SEEN
    | {"cells/v1/archive/state"}
    | {f"cells/v1/{d}/cmd/resp/start" for d in DEVICES},
    "anonymous": set[str](),
}
USERS: dict[str, str | None] = {
    "device": "scope-01",
    "archive": "archive",
    "dashboard": "dashboard",
    "operator": "operator",
    "anonymous": None,
}
Rights = dict[tuple[str, str], str]


def declared() -> Rights:
    """Letters per role and topic: publish, subscribe, retain, will."""
    rights = {}
    for role in USERS:
        for name in TOPICS:
            may_write, may_read = name in WRITES[role], name in READS[role]
            letters = ("P" if may_write else "") + ("S" if may_read else "")
            rights[role, name] = letters + ("RW" if may_write else "")
    return rights


def table(rights: Rights) -> str:
    """The table of docs/security.md."""
    lines = [
        "| topic | " + " | ".join(USERS) + " |",
        "|---|" + "---|" * len(USERS),
    ]
    for name, title in TOPICS.items():
        cells = " | ".join(rights[role, name] or "-" for role in USERS)
        lines.append(f"| {title} | {cells} |")
    return "\n".join(lines)


@dataclass
class Measurement:
    """Tries everything as everybody, through one listener."""

    broker: ShippedBroker
    listener: str
    is_brief: bool = False  # publish and subscribe alone
    clients: dict[str, Client] = field(default_factory=dict)
    found: dict[tuple[str, str], set[str]] = field(default_factory=dict)

    def rights(self) -> Rights:
        self._connect_all()
        self._publish()
        if not self.is_brief:
            self._retain()
            self._leave_wills()
        for client in self.clients.values():
            client.publish(((name, "") for name in TOPICS), is_retained=True)
            client.close()
        return {
            (role, name): "".join(
                letter
                for letter in "PpSRW"
                if letter in self.found.get((role, name), ())
            )
            for role in USERS
            for name in TOPICS
        }

    def _connect_all(self) -> None:
        """One connection per role, and two more of those who see what arrives."""
        for role, user in USERS.items():
            listener = self.listener
            if listener == "certificate" and role != "device":
                listener = "tls"
            self.clients[role] = Client(self.broker, user, listener=listener)
        for witness in ("observer", "scope-02"):
            self.clients[witness] = Client(self.broker, witness)
        for client in self.clients.values():
            self._subscribe(client)

    def _subscribe(self, client: Client) -> None:
        """Ask for everything in every way that there is."""
        client.subscribe(
            [*TOPICS, "#", "cells/#", "$SYS/#", f"$share/{client.name}/cells/v1/#"]
        )

    def _listen(self) -> Iterator[tuple[str, str, str, bool]]:
        """What everybody has heard since: who, topic, payload, retained."""
        for client in self.clients.values():
            client.listen()
        for role, client in self.clients.items():
            for name, payload, is_retained in client.heard:
                yield role, name, payload, is_retained
            client.heard.clear()

    def _note(self, role: str, name: str, letter: str) -> None:
        if name in TOPICS and role in USERS:
            self.found.setdefault((role, name), set()).add(letter)

    def _publish(self) -> None:
        """P: accepted, and heard by somebody. S: heard what somebody said."""
        list(self._listen())
        accepted = set()
        for role, client in self.clients.items():
            codes = client.publish((name, f"P {role}") for name in TOPICS)
            for name, code in zip(TOPICS, codes, strict=False):
                accepted |= {(role, name)} if 0 <= code < 0x80 else set()
        for hearer, name, payload, _ in self._listen():
            self._note(hearer, name, "S")
            if payload.startswith("P ") and (payload[2:], name) in accepted:
                self._note(payload[2:], name, "P")
        for role, name in accepted:
            if "P" not in self.found.get((role, name), ()):
                self._note(role, name, "p")  # taken, though nobody may hear it

    def _retain(self) -> None:
        """R: who subscribes later still gets it."""
        for role in USERS:
            self.clients[role].publish(
                ((name, f"R {role}") for name in TOPICS), is_retained=True
            )
            list(self._listen())
            for client in self.clients.values():
                self._subscribe(client)
            for _, name, payload, is_retained in self._listen():
                if is_retained and payload == f"R {role}":
                    self._note(role, name, "R")

    def _leave_wills(self) -> None:
        """W: the broker says it for one who vanished."""
        for role, user in USERS.items():
            for name in TOPICS:
                will = (name, f"W {role}")
                Client(self.broker, user, listener=self.listener, will=will).vanish()
            self.clients[role] = Client(self.broker, user, listener=self.listener)
            self._subscribe(self.clients[role])
            for _, name, payload, _ in self._listen():
                if payload == f"W {role}":
                    self._note(role, name, "W")


VICTIMS = ("scope-01", "archive", "dashboard", "operator", "observer")


def takeovers(
    broker: ShippedBroker, listener: str, victims: tuple[str, ...] = VICTIMS
) -> list[tuple[str, str]]:
    """Who threw whom out by taking its client id: attacker, victim."""
    thrown = []
    for attacker, user in USERS.items():
        for victim in victims:
            if victim == user:
                continue
            with closing(Client(broker, victim, client_id=victim)) as at_work:
                assert at_work.is_answered()
                rogue = Client(broker, user, listener=listener, client_id=victim)
                if not at_work.is_answered():
                    thrown.append((attacker, victim))
                rogue.close()
    return thrown


if __name__ == "__main__":
    print(table(declared()))  # noqa: T201
