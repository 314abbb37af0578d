"""`--change` reads what a Dockerfile would say."""

from __future__ import annotations

from typing import Any

import pytest

from rootless.errors import UsageError
from rootless.image.changes import apply


@pytest.mark.parametrize("lines, config", [
    (['CMD ["a", "b c"]'], {"Cmd": ["a", "b c"]}),
    (["CMD a b"], {"Cmd": ["/bin/sh", "-c", "a b"]}),
    (['cmd ["broken'], {"Cmd": ["/bin/sh", "-c", '["broken']}),
    (['ENTRYPOINT ["/init"]'], {"Entrypoint": ["/init"]}),
    (["ENV A=1 B='two words' C=", "ENV A=3"], {"Env": ["A=3", "B=two words", "C="]}),
    (["ENV NAME the whole rest"], {"Env": ["NAME=the whole rest"]}),
    (["LABEL a=1 b.c=\"x y\""], {"Labels": {"a": "1", "b.c": "x y"}}),
    (["EXPOSE 80 53/udp 8000-8002"],
     {"ExposedPorts": {"80/tcp": {}, "53/udp": {}, "8000/tcp": {}, "8001/tcp": {},
                       "8002/tcp": {}}}),
    (["USER 1000:50"], {"User": "1000:50"}),
    (['VOLUME ["/a", "/b c"]', "VOLUME /d /e"],
     {"Volumes": {"/a": {}, "/b c": {}, "/d": {}, "/e": {}}}),
    (["WORKDIR /a", "WORKDIR b/../c"], {"WorkingDir": "/a/c"}),
    (["STOPSIGNAL SIGINT"], {"StopSignal": "SIGINT"}),
    (["ONBUILD RUN x"], {"OnBuild": ["RUN x"]}),
])
def test_an_instruction_changes_the_configuration(lines: list[str], config: dict[str, Any]) -> None:
    made: dict[str, Any] = {}
    for line in lines:
        apply(made, line)
    assert made == config


@pytest.mark.parametrize("line", [
    "", "RUN x", "FROM y", "CMD", "ENV A", "ENV A=1 B", "ENV =x", "EXPOSE no", "EXPOSE 80/icmp",
    "EXPOSE 90-80", "EXPOSE 70000", "USER a b", "LABEL 'open", "STOPSIGNAL"])
def test_what_cannot_be_is_refused_by_its_line(line: str) -> None:
    with pytest.raises(UsageError) as caught:
        apply({}, line)
    assert caught.value.message.startswith(f"invalid change: {line}: ")
