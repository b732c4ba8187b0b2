"""A few words between the driver and the workers of one start, in the cluster's key-value store: no folder is needed
that both of them see."""

from __future__ import annotations

from dataclasses import dataclass

STOP, ENDED = "stop", "ended"
"""A signal that the driver got; how the workers left the run."""
_NAMESPACE = b"ecgray"


@dataclass(frozen=True)
class Messages:
    """What is said of the start ``start``; each of its processes may put and get."""

    start: str

    def put(self, name: str, text: str) -> None:
        from ray.experimental.internal_kv import _internal_kv_put

        _internal_kv_put(self._key(name), text.encode(), overwrite=True, namespace=_NAMESPACE)

    def get(self, name: str) -> str | None:
        from ray.experimental.internal_kv import _internal_kv_get

        text = _internal_kv_get(self._key(name), namespace=_NAMESPACE)
        return None if text is None else text.decode()

    def forget(self) -> None:
        from ray.experimental.internal_kv import _internal_kv_del

        for name in (STOP, ENDED):
            _internal_kv_del(self._key(name), namespace=_NAMESPACE)

    def _key(self, name: str) -> bytes:
        return f"{self.start}/{name}".encode()
