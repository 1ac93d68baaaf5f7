"""Manifests: sealed part by part, and what differs is named by part and item."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from understudy.points.manifest import PARTS, Difference, compare, digest_of, resealed, seal


def parts() -> dict[str, dict[str, Any]]:
    return {
        "model": {"name": "m", "version": "1", "files": {"a.pkl": "a" * 64, "sub/b": "b" * 64}},
        "signature": {"inputs": {"hour": "double"}, "required": ["hour"], "outputs": ["double"]},
        "feature_set": {"name": None, "columns": {}, "transformation": None},
        "snapshot": {"datasets": {"holdout.parquet": "c" * 64}},
        "flags": {"document": "d" * 64},
        "suites": {"files": {"rows": "e" * 64}},
        "spec": {"kept": "f" * 64, "frozen": "f" * 64},
        "code": {"version": "1", "files": "0" * 64},
        "probe": {"rows": "1" * 64, "answers": "2" * 64, "count": 200},
    }


def test_a_sealed_manifest_is_sound_and_hashes_to_the_same_whatever_the_order() -> None:
    backwards = dict(reversed(list(parts().items())))
    assert resealed(seal(parts())) == []
    assert digest_of(seal(parts())) == digest_of(seal(backwards))
    assert compare(seal(parts())["parts"], seal(backwards)["parts"]) == []


@pytest.mark.parametrize("name", PARTS)
def test_a_part_that_was_altered_is_named(name: str) -> None:
    manifest = seal(parts())
    before = digest_of(manifest)
    manifest["parts"][name]["added"] = 1
    assert [item.part for item in resealed(manifest)] == [name]
    assert digest_of(manifest) != before


def test_a_manifest_of_another_format_or_with_missing_or_strange_parts_is_named() -> None:
    assert resealed({"probe_rows": 200})[0].item == "format"
    assert resealed({"format": "understudy-point/1", "parts": []})[0].item == "format"
    manifest = seal(parts())
    del manifest["parts"]["probe"]
    manifest["parts"]["more"] = {}
    manifest["parts"]["spec"] = "text"
    assert [(item.part, item.item) for item in resealed(manifest)] == [
        ("manifest", "spec"), ("manifest", "probe"), ("manifest", "more")
    ]  # fmt: skip


def test_what_differs_is_named_by_part_and_item_and_what_nobody_looked_at_is_left_out() -> None:
    now = copy.deepcopy(parts())
    now["model"]["files"]["sub/b"] = "9" * 64
    del now["model"]["files"]["a.pkl"]
    now["model"]["files"]["new"] = "8" * 64
    now["signature"]["required"] = []
    del now["code"]
    assert compare(parts(), now) == [
        Difference("model", "files a.pkl", "a" * 64, "nothing"),
        Difference("model", "files new", "nothing", "8" * 64),
        Difference("model", "files sub/b", "b" * 64, "9" * 64),
        Difference("signature", "required", '["hour"]', "[]"),
    ]
    assert str(compare(parts(), now)[2]) == "model, files sub/b: recorded bbbbbbbbbbbb, found 999999999999"
