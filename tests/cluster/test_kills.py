"""No kill loses a row (a slow test: half an hour on two cores)."""

import os

import pytest

pytest.importorskip("ray", reason="needs the extra ray")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["actor", "worker", "raylet", "driver"])
def test_no_kill_on_two_nodes_loses_a_row_or_hangs(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """KILLS sets the number of kills of each kind, at random moments; 20 by default."""
    from kills import ENVIRONMENT, kill, table

    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    found = kill([kind], int(os.environ.get("KILLS", "20")), seed=0)
    print(table(found))
    assert found[kind].is_good, table(found)
    assert found[kind].killed == found[kind].runs
