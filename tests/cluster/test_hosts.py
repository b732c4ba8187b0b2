"""A test of clusters is never left out in silence."""

from __future__ import annotations

from types import ModuleType

import pytest


@pytest.mark.parametrize(("demand", "outcome"), [("", "Skipped"), ("required", "Failed")])
def test_a_test_without_hosts_is_skipped_with_the_reason_or_fails_on_demand(
    hosts_module: ModuleType, monkeypatch: pytest.MonkeyPatch, demand: str, outcome: str
) -> None:
    monkeypatch.setattr(hosts_module.shutil, "which", lambda tool: None if tool == "nft" else f"/bin/{tool}")
    monkeypatch.setattr(hosts_module.os, "geteuid", lambda: 0)
    monkeypatch.setenv(hosts_module.DEMAND, demand)
    with pytest.raises(BaseException, match=r"nft must be installed \(apt-get install .*nftables") as raised:
        hosts_module.require(ssh=True)
    assert type(raised.value).__name__ == outcome
