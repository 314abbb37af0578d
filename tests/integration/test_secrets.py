"""Secrets reach the container that is given them and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.support.box import Box

WORD = "pa55word-of-the-test"


@pytest.fixture
def secret(box: Box) -> Iterator[str]:
    box.cli.ok("secret", "create", "-l", "a=b", "word", "-", stdin=WORD.encode())
    yield "word"
    box.cli.ok("secret", "rm", "-i", "word")


def test_a_secret_is_a_file_that_cannot_be_changed(box: Box, secret: str) -> None:
    told = box.sh("cat /run/secrets/word; stat -c ' %u:%g %a' /run/secrets/word; "
                  "chmod 777 /run/secrets/word 2>/dev/null || echo kept; "
                  "(echo x >/run/secrets/word) 2>/dev/null || echo unwritten", "--secret", secret)
    assert told.split() == [WORD, "0:0", "444", "kept", "unwritten"]
    told = box.sh("cat /etc/key; stat -c ' %u:%g %a' /etc/key; ls /run/secrets/other",
                  "--secret", f"{secret},target=/etc/key,uid=1000,gid=7,mode=0400",
                  "--secret", f"source={secret},target=other")
    assert told.split() == [WORD, "1000:7", "400", "/run/secrets/other"]
    assert box.sh("cat /run/secrets/word", "--secret", f"{secret},mode=0400,uid=1000",
                  "--user", "1000") == WORD
    result = box("--secret", f"{secret},mode=0400", "--user", "1000",
                 then=("cat", "/run/secrets/word"))
    assert "denied" in result.error


def test_a_secret_in_the_environment_is_not_in_inspect(box: Box, secret: str) -> None:
    name = box.cli.ok("create", "--secret", f"{secret},type=env,target=TOKEN", box.image, "sh",
                      "-c", "echo $TOKEN").text
    try:
        assert WORD not in box.cli.ok("inspect", name).text
        assert box.cli.ok("start", "-a", name).text == WORD
    finally:
        box.cli.ok("rm", name)


def test_neither_commit_nor_export_nor_diff_nor_inspect_tell_it(box: Box, secret: str) -> None:
    with box.running("--secret", secret, "--secret", f"{secret},type=env") as name:
        assert WORD in box.cli.ok("exec", name, "cat", f"/run/secrets/{secret}").text
        assert box.cli.ok("diff", name).text == ""
        box.cli.ok("commit", name, "leak:1")
        for words in (("export", name), ("save", "leak:1"), ("inspect", name, "leak:1")):
            assert WORD.encode() not in box.cli.ok(*words).out
        (one,) = box.cli.ok("inspect", name).json
        assert one["Config"]["Secrets"][0]["Name"] == secret and one["Mounts"] == []
        assert box.sh("ls /run/secrets 2>/dev/null || true", "--volumes-from", name) == ""
    box.cli.ok("rmi", "leak:1")


def test_a_container_keeps_its_copy(box: Box, secret: str) -> None:
    box.cli.ok("create", "--name", "keeps", "--secret", secret, box.image, "cat",
               f"/run/secrets/{secret}")
    box.cli.ok("secret", "create", "--replace", secret, "-", stdin=b"another")
    assert box.cli.ok("start", "-a", "keeps").text == WORD
    box.cli.ok("secret", "rm", secret)
    assert box.cli.ok("start", "-a", "keeps").text == WORD
    box.cli.ok("rm", "keeps")


def test_the_commands(box: Box, secret: str) -> None:
    cli = box.cli
    assert cli.ok("secret", "ls").text.splitlines()[0].split() == [
        "ID", "NAME", "DRIVER", "CREATED", "UPDATED"]
    (one,) = cli.ok("secret", "inspect", secret).json
    assert one["Spec"] == {"Name": secret, "Driver": {"Name": "file", "Options": {}},
                           "Labels": {"a": "b"}}
    assert WORD not in cli.ok("secret", "inspect", secret).text
    assert cli.ok("secret", "inspect", "--showsecret", "-f", "{{.SecretData}}",
                  one["ID"][:8]).text == WORD
    assert cli.ok("secret", "ls", "-q", "-f", "label=a").text == one["ID"]
    assert cli.ok("secret", "ls", "--format", "{{.Name}}", "-f", "name=none").text == ""
    assert cli("secret", "exists", secret).rc == 0 and cli("secret", "exists", "no").rc == 1
    cli.fails(1, "secret", "create", secret, "-", stdin=b"x", says="there is one")
    cli.fails(1, "secret", "create", "x", "/none", says="no such file")
    cli.fails(125, "secret", "create", "x", "-", stdin=b"", says="0 bytes")
    cli.fails(1, "secret", "rm", "none", says="no such secret")
    cli.ok("secret", "rm", "-i", "none")
    cli.ok("secret", "create", "--env", "from-env", "SAID", env={"SAID": "hello"})
    assert box.sh("cat /run/secrets/from-env", "--secret", "from-env") == "hello"
    assert len(cli.ok("secret", "rm", "--all").text.split()) == 2
    box.refuses("--secret", secret, says="no such secret")
    box.refuses("--secret", "a,b=c", says="invalid secret")
    cli.ok("secret", "create", "binary", "-", stdin=b"\xff")
    box.refuses("--secret", "binary,type=env", says="no text")
    cli.ok("secret", "rm", "binary")
