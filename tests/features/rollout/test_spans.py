"""A rollout over hosts that serve one model together: runs on hosts are substitutes, its record is real."""

from dataclasses import replace
from typing import cast

import pytest

from provision.core.errors import Exit, InventoryError, UsageError
from provision.features.rollout import commands as rollout
from provision.features.rollout.store import RolloutStore
from tests.features.rollout.site import NEW, OLD, KilledError, Site


@pytest.fixture
def site(site: Site) -> Site:
    """A site of which `a` and `b` serve one model together, `c` and `d` a second copy of it."""
    site.spans = (("a", "b"), ("c", "d"))
    return site


def test_hosts_that_serve_one_model_together_change_as_one(site: Site) -> None:
    site.has_gateway = True
    assert site.start("50,100", min_serving=1) == Exit.OK
    assert site.runs[:-1] == [
        "install a,b,c,d",
        "share 0  +a",
        "serve a,b",
        "share 0 a +",
        "gate a,c",
        "share 50 a +",
        "gate a,c",
        "share 0  +",
        "serve c,d",
        "gate a,c",
    ]
    with pytest.raises(UsageError, match="--min-serving 2"):
        site.start("100", min_serving=2)


def test_one_bad_host_returns_all_of_its_span_each_to_its_own_release(site: Site) -> None:
    site.serves["b"], site.bad, site.stays_bad = "2" * 16, {"b"}, True
    assert site.start("50,100") == Exit.RED
    assert site.runs == ["install a,b,c,d", "serve a,b", "rollback a,b"]
    assert site.serves == {"a": OLD, "b": "2" * 16, "c": OLD, "d": OLD}
    assert [host.state for host in site.record().hosts] == ["returned", "returned", "waiting", "waiting"]


@pytest.mark.parametrize("end", ["resume", "abort"])
def test_a_record_that_knows_one_host_of_a_span_changed_is_continued_for_all(site: Site, end: str) -> None:
    site.kill_in(3)
    with pytest.raises(KilledError):
        site.start("50,100")
    store = RolloutStore(site.logs)
    store.put(store.require_open().with_host("b", state="changing"))
    assert getattr(rollout, end)(site.request()) == Exit.OK
    assert site.runs[3] == ("serve a,b" if end == "resume" else "rollback a,b")
    assert set(site.serves.values()) == {NEW if end == "resume" else OLD}


def test_a_span_that_could_not_return_is_refused_before_a_host_changes(site: Site) -> None:
    site.serves["b"] = cast("str", None)
    with pytest.raises(InventoryError, match="`b` served nothing before: a rollout could not take them back"):
        site.start()
    with pytest.raises(InventoryError, match="--limit leaves out `b`"):
        rollout.start(replace(site.request(), limit="a,c,d"), steps="100")
    assert site.runs == ["install a,b,c,d"]
