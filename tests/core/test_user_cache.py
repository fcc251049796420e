"""Where a user's cache lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from leukoscope.core.user_cache import user_cache


def test_a_variable_names_the_folder_or_turns_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEUKOSCOPE_CACHE", "/somewhere")
    assert user_cache("graphs") == Path("/somewhere/graphs")
    monkeypatch.setenv("LEUKOSCOPE_CACHE", "off")
    assert user_cache("graphs") is None


@pytest.mark.parametrize(
    ("platform", "expected"),
    [
        ("linux", "/xdg/leukoscope/graphs"),
        ("darwin", "/home/ada/Library/Caches/leukoscope/graphs"),
        ("win32", "/local/leukoscope/graphs"),
    ],
)
def test_otherwise_it_lies_where_the_system_has_caches(
    platform: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LEUKOSCOPE_CACHE", raising=False)
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/ada"))
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    assert user_cache("graphs") == Path(expected)


@pytest.mark.parametrize("given", ["", "relative"])
def test_a_relative_folder_of_caches_is_ignored(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the XDG base directory specification says."""
    monkeypatch.delenv("LEUKOSCOPE_CACHE", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(Path, "home", lambda: Path("/home/ada"))
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    assert user_cache("graphs") == Path("/home/ada/.cache/leukoscope/graphs")


def test_without_a_home_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("LEUKOSCOPE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(Path, "home", no_home)
    assert user_cache("graphs") is None
