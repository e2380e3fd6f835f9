"""Errors of the server, and what its users are told."""

import pytest

from leaseq._valkey.server_errors import server_error


@pytest.mark.parametrize(
    ("said", "code", "told"),
    [
        ("ERR it is so", "ERR", "ERR it is so"),
        ("WRONGTYPE it is another", "WRONGTYPE", "WRONGTYPE it is another"),
        (
            "OOM command not allowed when used memory > 'maxmemory'.",
            "OOM",
            "OOM command not allowed when used memory > 'maxmemory' (the server is full: nothing "
            "was done)",
        ),
        (
            "NOREPLICAS Not enough good replicas to write.",
            "NOREPLICAS",
            "NOREPLICAS Not enough good replicas to write (the server has too few replicas: "
            "nothing was done)",
        ),
        (
            "NOPERM User ada has no permissions to run the 'info' command",
            "NOPERM",
            "NOPERM this user may not do that: its ACL lacks +info",
        ),
        (
            "ERR ACL failure in script: User ada has no permissions to run the 'hget' command "
            "script: on @user_script:7.",
            "NOPERM",
            "NOPERM this user may not do that: its ACL lacks +hget",
        ),
        (
            "NOPERM No permissions to access a key",
            "NOPERM",
            "NOPERM this user may not do that: its ACL lacks keys of the queue, or of the queue of "
            "its dead letters, or of the prefix",
        ),
        (
            "ERR The user executing the script can't run this command or subcommand script: on "
            "@user_script:7.",
            "NOPERM",
            "NOPERM this user may not do that: its ACL lacks a command that scripts need",
        ),
        (
            "ERR The user executing the script can't access at least one of the keys mentioned in "
            "the command arguments script: on @user_script:7.",
            "NOPERM",
            "NOPERM this user may not do that: its ACL lacks keys of the queue, or of the queue of "
            "its dead letters",
        ),
        (
            "NOPERM something new",
            "NOPERM",
            "NOPERM this user may not do that: its ACL lacks something (NOPERM something new)",
        ),
    ],
)
def test_an_error_of_the_server_says_what_became_of_it(said: str, code: str, told: str) -> None:
    error = server_error(said)
    assert error.code == code
    assert str(error) == told
