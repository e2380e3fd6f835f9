"""Hints between processes, on systems that have names for them and on such as have none."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest

from leaseq._sqlite.hints import Ear, Voice

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such sockets")


@pytest.fixture
def process() -> str:
    return f"test-{os.getpid()}"


def test_a_hint_is_heard_as_long_as_its_process_is_there(process: str) -> None:
    ear, voice = Ear(process), Voice()
    assert ear.read() == []
    voice.send(ear.address, b"one")
    voice.send(ear.address, b"two")
    assert ear.read() == [b"one", b"two"]
    assert voice.is_heard(ear.address)
    ear.close()
    assert ear.read() == []
    assert not voice.is_heard(ear.address)
    voice.send(ear.address, b"lost")
    voice.close()


def test_a_system_without_names_for_sockets_has_them_in_a_folder(
    tmp_path: Path, process: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "darwin")
    ear, voice = Ear(process), Voice()
    assert Path(ear.address) == tmp_path / f"leaseq-{process}.sock"
    voice.send(ear.address, b"one")
    assert ear.read() == [b"one"]
    assert voice.is_heard(ear.address)
    Path(ear.address).unlink()  # as a cleaner of the folder may
    ear.close()
    ear.close()
    voice.close()
    ear = Ear(process)
    ear.close()
    assert [*tmp_path.iterdir()] == []


def test_a_process_whose_name_is_taken_does_without_hints(process: str) -> None:
    ear, deaf, voice = Ear(process), Ear(process), Voice()
    assert (deaf.address, deaf.socket, deaf.read()) == ("", None, [])
    deaf.close()
    assert voice.is_heard(ear.address)
    ear.close()
    voice.close()


def test_a_system_without_such_sockets_has_no_hints(
    process: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Ear(process)
    monkeypatch.setattr(sys, "platform", "win32")
    ear, voice = Ear(f"{process}-more"), Voice()
    assert (ear.address, ear.socket) == ("", None)
    voice.send(there.address, b"one")
    assert there.read() == []
    assert not voice.is_heard(there.address)
    ear.close()
    voice.close()
    there.close()
