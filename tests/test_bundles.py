"""Bundles' folders, and what is passed to their configs."""

from __future__ import annotations

from pathlib import Path

from shared_nets.bundles import plain_path


def test_home_is_where_the_user_has_it() -> None:
    assert plain_path("~/scans/a.nii") == str(Path.home() / "scans" / "a.nii")
    # A file may begin so, too.
    assert plain_path("~no_such_user.nii") == str(Path.cwd() / "~no_such_user.nii")
