"""`build`: the image is what the Dockerfile says, the cache tells the truth, nothing is left."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.support.box import Box, eventually
from tests.integration.support.cli import Cli, Result
from tests.integration.support.registry import Registry


class Project:
    """A build context, and a store with the image that Dockerfiles call BASE."""

    def __init__(self, cli: Cli, base: str, where: Path) -> None:
        self.cli = cli
        self.base = base
        self.where = where
        where.mkdir(exist_ok=True)

    def file(self, name: str, text: str = "", mode: int = 0o644) -> Path:
        path = self.where / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def dockerfile(self, text: str) -> None:
        self.file("Dockerfile", text.replace("BASE", self.base))

    def build(self, text: str, *options: str, **more: Any) -> Result:
        self.dockerfile(text)
        return self.cli.ok("build", "-t", "made", *options, str(self.where), timeout=120, **more)

    def fails(self, text: str, *options: str, says: str, rc: int = 1, **more: Any) -> Result:
        self.dockerfile(text)
        result = self.cli.fails(rc, "build", *options, str(self.where), says=says, **more)
        assert "Traceback" not in result.error
        self.tidy()
        return result

    def run(self, *args: str) -> str:
        return self.cli.ok("run", "--rm", "made", *args).text

    def sh(self, script: str) -> str:
        return self.run("sh", "-ec", script)

    def config(self, name: str = "made") -> dict[str, Any]:
        found: dict[str, Any] = self.cli.ok("image", "inspect", name).json[0]
        return found

    def id(self) -> str:
        return str(self.config()["Id"])

    def tidy(self) -> None:
        """Nothing of a build is left where things are made."""
        eventually(lambda: [n for n in os.listdir(self.cli.store / "tmp") if "partial" not in n]
                   == [], "tmp is empty")
        assert self.cli.ok("ps", "-aq").text == ""
        assert not [n for n in os.listdir(self.cli.runtime / "rootless") if "secret" in n]


@pytest.fixture
def project(fresh: Cli, server: Registry, tmp_path: Path) -> Project:
    name = f"{server.address}/tiny:latest"
    fresh.ok("pull", "-q", name)
    return Project(fresh, name, tmp_path / "context")


# ---- what becomes of instructions ---------------------------------------------------------------

def test_instructions_become_files_and_configuration(project: Project) -> None:
    project.file("app/run.sh", "#!/bin/sh\necho ran $1\n", 0o755)
    project.file("app/sub/data", "data\n")
    project.build("""
FROM BASE
ARG WHO=world
ENV GREETING="hello $WHO" EMPTY=
LABEL org.example.who=$WHO
WORKDIR /srv
RUN echo "$GREETING" > greeting && mkdir private && chmod 700 private
COPY app/ ./app/
COPY --chown=1000:2000 --chmod=640 app/sub/data /owned
USER 1000
EXPOSE 80 53/udp
VOLUME /data
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s CMD test -e /srv
ENTRYPOINT ["/srv/app/run.sh"]
CMD ["default"]
""", "--build-arg", "WHO=you", "--label", "given=1")
    assert project.run() == "ran default"
    assert project.run("other") == "ran other"
    seen = project.cli.ok("run", "--rm", "--entrypoint", "sh", "-u", "0", "made", "-ec",
                          "cat /srv/greeting; stat -c '%u %g %a' /owned; stat -c %a /srv/private;"
                          "cat /srv/app/sub/data; pwd; echo $GREETING").text.split("\n")
    assert seen == ["hello you", "1000 2000 640", "700", "data", "/srv", "hello you"]
    config = project.config()["Config"]
    assert config["Labels"] == {"org.example.who": "you", "given": "1"}
    assert config["User"] == "1000" and config["WorkingDir"] == "/srv"
    assert set(config["ExposedPorts"]) == {"80/tcp", "53/udp"} and "/data" in config["Volumes"]
    assert config["StopSignal"] == "SIGINT" and "EMPTY=" in config["Env"]
    assert config["Healthcheck"]["Test"] == ["CMD-SHELL", "test -e /srv"]
    assert not any(e.startswith("WHO=") for e in config["Env"])
    project.tidy()


def test_only_what_a_step_changed_is_in_its_layer(project: Project) -> None:
    """No mount point of ours, no parent that was not changed; what was deleted is hidden."""
    project.build("""
FROM BASE
RUN mkdir -p /deep/er && echo x > /deep/er/f && echo y > /deep/g
RUN rm -r /deep/er
RUN true
""")
    tar = project.cli.ok("save", "made").out
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        def read(name: str) -> bytes:
            found = archive.extractfile(name)
            assert found is not None
            return found.read()

        names = []
        for layer in json.loads(read("manifest.json"))[0]["Layers"][-3:]:
            with tarfile.open(fileobj=io.BytesIO(read(layer))) as inner:
                names.append(sorted(inner.getnames()))
    assert names == [["deep", "deep/er", "deep/er/f", "deep/g"], ["deep", "deep/.wh.er"], []]


def test_stages_give_files_and_environment_to_later_ones(project: Project) -> None:
    result = project.build("""
ARG TAG=latest
FROM BASE AS tools
ENV KEPT=yes
ARG FROM_ARG=arg
RUN echo made > /tool && ln -s tool /link && chown 5:6 /tool
FROM BASE AS unused
RUN exit 1
FROM tools AS second
RUN test "$KEPT $FROM_ARG" = "yes arg"
FROM scratch
COPY --from=tools /tool /link /out/
COPY --from=0 / /all
COPY --from=BASE /bin /bin
CMD ["/bin/sh"]
""")
    assert "exit 1" not in result.error
    assert project.sh("cat /out/tool; stat -c '%u %g' /out/tool; cat /all/tool; ls -l /out/link"
                      ).startswith("made\n5 6\nmade\n")
    project.build("FROM BASE AS a\nRUN echo a > /a\nFROM BASE AS b\nRUN echo b > /b",
                  "--target", "a")
    assert project.sh("ls /a; ls /b 2>/dev/null || echo none") == "/a\nnone"
    project.tidy()


def test_stages_that_do_not_need_each_other_run_at_the_same_time(project: Project) -> None:
    """Each waits for the other, through a cache mount."""
    wait = "for i in $(seq 200); do test -e /c/{} && exit 0; sleep 0.05; done; exit 1"
    project.build(f"""
FROM BASE AS one
RUN --mount=type=cache,id=meet,target=/c touch /c/one; {wait.format('two')}
FROM BASE AS two
RUN --mount=type=cache,id=meet,target=/c touch /c/two; {wait.format('one')}
FROM BASE
COPY --from=one /etc/passwd /1
COPY --from=two /etc/passwd /2
""")


def test_here_documents_are_scripts_and_files(project: Project) -> None:
    project.build("""
FROM BASE
ARG A=1
RUN <<EOF
set -e
echo one > /one
echo two > /two
EOF
RUN <<SCRIPT
#!/bin/cat
as it is
SCRIPT
COPY <<plain <<"quoted" /files/
value $A
plain
value $A
quoted
RUN cat <<X > /three
inner
X
""")
    assert project.sh("cat /one /two /three /files/plain /files/quoted") == (
        "one\ntwo\ninner\nvalue 1\nvalue $A")
    assert "pipes" not in project.sh("ls /dev /")


def test_onbuild_is_for_the_next_image(project: Project) -> None:
    project.file("payload", "carried\n")
    project.build("FROM BASE\nONBUILD COPY payload /here\nONBUILD RUN test -e /here")
    assert project.sh("ls /here 2>/dev/null || echo absent") == "absent"
    project.cli.ok("tag", "made", "parent")
    project.build("FROM parent")
    assert project.sh("cat /here") == "carried"
    assert not project.config()["Config"].get("OnBuild")


def test_archives_are_unpacked_by_add_and_kept_by_copy(project: Project) -> None:
    for suffix, mode in (("tar", "w"), ("tgz", "w:gz"), ("txz", "w:xz")):
        with tarfile.open(project.where / f"a.{suffix}", mode) as tar:  # type: ignore[call-overload]
            info = tarfile.TarInfo(f"in/{suffix}")
            info.size, info.uid, info.mode = 3, 42, 0o600
            tar.addfile(info, io.BytesIO(b"abc"))
            bad = tarfile.TarInfo(".wh.no-whiteout")
            tar.addfile(bad, io.BytesIO())
    project.build("""
FROM BASE
ADD a.tar a.tgz a.txz /unpacked/
COPY a.tar /kept/
ADD --unpack=false a.tgz /kept/
ADD --chown=7:8 a.tar /owned/
""")
    assert project.sh("cat /unpacked/in/tar /unpacked/in/tgz /unpacked/in/txz; ls /kept;"
                      "stat -c '%u %a' /unpacked/in/tar; stat -c '%u %g' /owned/in/tar;"
                      "ls -a /unpacked | grep wh") == (
        "abcabcabca.tar\na.tgz\n42 600\n7 8\n.wh.no-whiteout")


# ---- contexts ------------------------------------------------------------------------------------

def test_what_is_ignored_is_not_there(project: Project) -> None:
    for name in ("keep", "skip.log", "sub/skip.log", "sub/keep.log", "sub/deep/x"):
        project.file(name, name)
    project.file(".dockerignore", "**/*.log\n!sub/keep.log\nsub/deep\n.dockerignore\nDockerfile\n")
    project.build("FROM BASE\nCOPY . /c/")
    assert project.sh("cd /c; find . -type f | sort") == "./keep\n./sub/keep.log"
    project.fails("FROM BASE\nCOPY skip.log /", says="skip.log")


def test_a_context_from_standard_input(project: Project) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, text in (("Dockerfile", f"FROM {project.base}\nCOPY f /f\n"), ("f", "piped\n")):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    project.cli.ok("build", "-t", "made", "-", stdin=out.getvalue())
    assert project.sh("cat /f") == "piped"
    text = f"FROM {project.base}\nRUN echo text > /f\n"
    project.cli.ok("build", "-t", "made", "-f", "-", str(project.where), stdin=text.encode())
    assert project.sh("cat /f") == "text"
    project.tidy()


@pytest.mark.parametrize("line", [
    "COPY ../outside /x", "COPY link /x", "COPY dir/link/f /x", "ADD link /x",
    "RUN --mount=type=bind,source=link,target=/x cat /x"])
def test_nothing_outside_the_context_can_be_reached(line: str, project: Project,
                                                    tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("secret of the host\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/f").write_text("secret of the host\n")
    project.file("ok")
    (project.where / "link").symlink_to("../outside")
    (project.where / "dir").mkdir()
    (project.where / "dir/link").symlink_to(tmp_path / "out")
    project.dockerfile(f"FROM BASE\n{line}\n")
    result = project.cli("build", "-t", "made", str(project.where))
    if result.rc == 0:          # as in docker, a path is resolved inside the context
        assert "secret" not in project.sh("cat /x 2>/dev/null || true")
    else:
        assert result.rc == 1 and "Traceback" not in result.error, result


def test_links_in_an_image_do_not_lead_out_of_it(project: Project, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    project.file("f", "written\n")
    project.build(f"FROM BASE\nRUN ln -s {victim} /trap && ln -s / /root-link\n"
                  "COPY f /trap/f\nADD f /root-link/g\nWORKDIR /trap/w\n")
    assert list(victim.iterdir()) == []
    assert project.sh(f"cat {victim}/f /g") == "written\nwritten"


# ---- the cache -----------------------------------------------------------------------------------

def cached(result: Result) -> int:
    return result.error.count("CACHED")


def test_what_did_not_change_is_not_made_again(project: Project) -> None:
    text = ("FROM BASE\nCOPY f /f\nRUN cat /f > /g; cat /proc/sys/kernel/random/uuid > /time\n"
            "ENV A=1\nRUN echo $A > /a")
    project.file("f", "one")
    assert cached(project.build(text)) == 0
    first, when = project.id(), project.sh("cat /time")
    os.utime(project.where / "f", (1, 1))
    assert cached(project.build(text)) == 3
    assert project.id() == first
    project.file("f", "two")
    assert cached(project.build(text)) == 0
    assert project.sh("cat /g") == "two" and project.sh("cat /time") != when
    project.file("f", "one", 0o755)
    assert cached(project.build(text)) == 0
    project.file("f", "one", 0o644)
    assert cached(project.build(text)) == 3
    assert project.id() == first
    assert cached(project.build(text, "--no-cache")) == 0
    assert cached(project.build(text.replace("A=1", "A=2"))) == 2


def test_an_argument_is_part_of_the_key_where_it_is_declared(project: Project) -> None:
    text = "FROM BASE\nRUN true\nARG A\nRUN echo $A > /a"
    project.build(text, "--build-arg", "A=1")
    assert cached(project.build(text, "--build-arg", "A=2")) == 1
    assert cached(project.build(text, "--build-arg", "A=1")) == 2
    assert project.sh("cat /a") == "1"
    # A proxy decides how, not what.
    assert cached(project.build(text, "--build-arg", "A=1", "--build-arg", "http_proxy=x:1")) == 2


def test_pruning_forgets_and_frees(project: Project) -> None:
    text = "FROM BASE\nRUN head -c 3000000 /dev/urandom > /big"
    project.build(text)
    project.cli.ok("rmi", "made")
    assert cached(project.build(text)) == 1
    project.cli.ok("builder", "prune", "-f")
    assert cached(project.build(text)) == 1, "an image uses it"
    project.cli.ok("rmi", "made")
    assert "MB" in project.cli.ok("builder", "prune", "-f").text
    assert cached(project.build(text)) == 0
    project.cli.ok("builder", "prune", "-af")
    assert cached(project.build(text)) == 0


def test_the_same_input_gives_the_same_image_in_another_store(
        project: Project, fresh: Cli, ground: Path) -> None:
    project.file("f", "x")
    text = "FROM BASE\nCOPY f /f\nRUN mkdir /d && echo y > /d/y\nWORKDIR /w/x\n"
    seen = set()
    for number in range(2):
        project.build(text, "--no-cache", "--timestamp", "1700000000")
        seen.add(project.id())
        project.file("f", "x")
        time.sleep(1.1 * (1 - number))
    assert len(seen) == 1
    assert project.sh("stat -c %Y /d/y") == "1700000000"
    assert project.config()["Created"].startswith("2023-11-14T22:13:20")


# ---- mounts --------------------------------------------------------------------------------------

def test_mounts_are_seen_and_not_kept(project: Project) -> None:
    project.file("in/f", "from the context\n")
    project.build("""
FROM BASE AS other
RUN echo from a stage > /s
FROM BASE
RUN --mount=type=bind,source=in,target=/in cat /in/f > /1 && ! touch /in/x
RUN --mount=type=bind,from=other,source=/s,target=/s cat /s > /2
RUN --mount=type=bind,source=in,target=/in,rw touch /in/x && ls /in > /3
RUN --mount=type=tmpfs,target=/t,size=1m touch /t/x && df -k /t | tail -1 | awk '{print $2}' > /4
RUN --mount=type=cache,target=/cache echo kept > /cache/k
RUN --mount=type=cache,target=/cache cat /cache/k > /5
""")
    assert project.sh("cat /1 /2 /3 /4 /5") == (
        "from the context\nfrom a stage\nf\nx\n1024\nkept")
    assert project.sh("ls -d /in /s /t /cache 2>/dev/null || true") == ""
    assert not (project.where / "in/x").exists()


def test_a_secret_is_for_its_step_alone(project: Project, tmp_path: Path) -> None:
    word = "very-secret-word"
    (tmp_path / "token").write_text(word)
    text = """
FROM BASE
RUN --mount=type=secret,id=token wc -c < /run/secrets/token > /1; stat -c '%u %a' /run/secrets/token
RUN --mount=type=secret,id=token,target=/root/t,uid=7,mode=0444 stat -c '%u %a' /root/t > /2
RUN --mount=type=secret,id=var,env=VAR test ${#VAR} = 12
RUN --mount=type=secret,id=optional test ! -e /run/secrets/optional
RUN test ! -e /run/secrets/token
"""
    result = project.build(text, "--secret", f"id=token,src={tmp_path / 'token'}",
                           "--secret", "id=var,env=THE_VAR", env={"THE_VAR": "other-secret"})
    assert project.sh("cat /1 /2") == f"{len(word)}\n7 444"
    assert word not in result.error and "other-secret" not in result.error
    for place, _, files in os.walk(project.cli.store / "cache"):
        for name in files:
            data = (Path(place) / name).read_bytes()
            assert word.encode() not in data and b"other-secret" not in data, name
    everything = project.cli.ok("save", "made").out + json.dumps(project.config()).encode()
    assert word.encode() not in everything
    project.tidy()
    project.fails("FROM BASE\nRUN --mount=type=secret,id=absent,required=true true",
                  says="absent")


# ---- what goes wrong -----------------------------------------------------------------------------

def test_a_step_that_fails_says_which_and_where(project: Project) -> None:
    result = project.fails("""FROM BASE
RUN echo before; \\
    echo cause >&2; exit 7
RUN echo never
""", says="exit code: 7")
    assert "> [2/3] RUN echo before;" in result.error and "cause" in result.error
    assert "Dockerfile:2" in result.error and "[3/3]" not in result.error
    assert "exit 7" in result.error


@pytest.mark.parametrize("text, says", [
    ("FROM BASE\nRUNN true", "RUNN"),
    ("FROM BASE\nCOPY nothing /", "nothing"),
    ("FROM BASE\nCOPY --from=nowhere/none:1 /x /", "nowhere/none"),
    ("FROM a AS b\nFROM b AS a", "a"),
    ("FROM BASE\nRUN --mount=type=wrong true", "wrong"),
    ("FROM BASE\nRUN --security=insecure true", "insecure"),
    ("FROM BASE\nUSER nobody-at-all\nRUN true", "nobody-at-all"),
    ("FROM BASE\nRUN [\"/no/such/program\"]", "/no/such/program"),
    ("FROM BASE\nADD ftp://localhost/x /", "ftp"),
    ("FROM BASE\nCOPY --chown=nobody-at-all Dockerfile /", "nobody-at-all"),
    ("FROM host\nRUN true", "host"),
    ("", "no"),
])
def test_what_cannot_be_is_said_in_a_line(text: str, says: str, project: Project) -> None:
    project.fails(text, "--pull=never", says=says)


def test_bad_arguments_are_said_in_a_line(project: Project, tmp_path: Path) -> None:
    project.dockerfile("FROM BASE\n")
    where = str(project.where)
    for args, says in (([str(tmp_path / "absent")], "absent"), (["--target", "x", where], "x"),
                       (["-f", "absent", where], "absent"), (["--secret", "src=x", where], "id="),
                       (["--network", "absent", where], "absent"),
                       (["-t", "A:B:C", where], "A:B:C"),
                       (["--progress", "loud", where], "loud")):
        result = project.cli("build", *args)
        assert result.rc in (1, 125) and says in result.error and "Traceback" not in result.error
        assert len(result.error.splitlines()) <= 3, result


def test_ctrl_c_and_kill_leave_nothing_and_a_good_cache(project: Project) -> None:
    text = "FROM BASE\nRUN echo first > /1\nRUN touch /started; sleep 100\n"
    for number, how in enumerate((signal.SIGINT, signal.SIGTERM, signal.SIGKILL)):
        project.dockerfile(text.replace("touch", f": {number}; touch"))
        with project.cli.popen("build", str(project.where), stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if b"sleep 100" in line:
                    break
            time.sleep(0.2)
            process.send_signal(how)
            process.stderr.read()
        eventually(lambda: not sleeping(), "the step has ended")
        assert cached(project.build("FROM BASE\nRUN echo first > /1\n")) == 1
        project.tidy()


def sleeping() -> list[int]:
    from tests.integration.support import leftovers

    return [pid for pid, line in leftovers.descendants().items() if line == "sleep 100"]


def test_two_builds_at_once_agree(project: Project) -> None:
    project.dockerfile("FROM BASE\nRUN echo a > /a\nRUN echo b > /b\n")
    running = [project.cli.popen("build", "-t", f"made{n}", str(project.where),
                                 stderr=subprocess.PIPE) for n in range(4)]
    for process in running:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    for n in range(4):
        assert project.cli.ok("run", "--rm", f"made{n}", "cat", "/a", "/b").text == "a\nb"
    project.tidy()


def test_a_name_another_image_had_goes_to_the_new_one(project: Project) -> None:
    project.build("FROM BASE\nRUN echo 1 > /x")
    project.build("FROM BASE\nRUN echo 2 > /x", "-t", "also:1", "--iidfile",
                  str(project.where.parent / "id"))
    assert project.sh("cat /x") == "2"
    assert project.cli.ok("run", "--rm", "also:1", "cat", "/x").text == "2"
    assert (project.where.parent / "id").read_text() == project.id()
    project.dockerfile("FROM BASE\nRUN echo 2 > /x")
    assert project.cli.ok("build", "-q", str(project.where)).text == project.id()


def test_the_result_goes_where_it_is_wanted(project: Project, tmp_path: Path) -> None:
    text = "FROM BASE AS b\nRUN echo out > /f\nFROM scratch\nCOPY --from=b --chown=5:6 /f /d/f\n"
    out = tmp_path / "out"
    project.dockerfile(text)
    where = str(project.where)
    project.cli.ok("build", "-o", str(out), where)
    assert (out / "d/f").read_text() == "out\n" and (out / "d/f").stat().st_uid == os.getuid()
    assert project.cli.ok("images", "-q").text.count("\n") == 0, "only the base is in the store"
    with tarfile.open(fileobj=io.BytesIO(project.cli.ok("build", "-o", "-", where).out)) as tar:
        assert tar.getnames() == ["d", "d/f"] and tar.getmember("d/f").uid == 5
    for kind in ("oci", "docker"):
        file = tmp_path / f"{kind}.tar"
        project.cli.ok("build", "-t", f"{kind}:1", "-o", f"type={kind},dest={file}", where)
        project.cli.ok("load", "-i", str(file))
        assert project.config(f"{kind}:1")["RootFS"]["Layers"]
    (out / "trap").symlink_to("/etc")
    project.cli("build", "-o", str(out), "-f", "-", where,
                stdin=f"FROM {project.base} AS b\nRUN mkdir /trap && echo x > /trap/mine\n"
                         "FROM scratch\nCOPY --from=b /trap /trap\n".encode())
    assert not os.path.exists("/etc/mine")
    project.cli.fails(125, "build", "-o", "type=wrong", where, says="type=wrong")


def test_on_a_terminal_what_is_done_stays_and_what_runs_is_redrawn(project: Project) -> None:
    project.dockerfile("FROM BASE\nRUN echo passing by; sleep 0.5\nRUN true\n")
    with project.cli.terminal("build", str(project.where), rows=30, columns=70) as terminal:
        assert terminal.wait(60) == 0
        shown = terminal.output.decode()
    assert "=> => # " in shown and "passing by" in shown and "\x1b[" in shown
    after = shown[shown.rindex("[3/3] RUN true"):]
    assert "passing by" not in after and "writing image" not in after
    rows = [line for line in shown.split("\n") if "[2/3]" in line]
    assert all(len(line.split("\x1b[J")[-1].rstrip("\r")) <= 70 for line in rows)


# ---- others --------------------------------------------------------------------------------------

def test_what_is_built_can_be_pushed_and_pulled_by_others(
        project: Project, server: Registry, tmp_path: Path) -> None:
    project.build("FROM BASE\nRUN echo carried > /f && chown 3:4 /f\nCMD cat /f\n")
    name = f"{server.address}/built:1"
    project.cli.ok("tag", "made", name)
    project.cli.ok("push", "-q", name)
    subprocess.run(["skopeo", "copy", "--src-tls-verify=false", f"docker://{name}",
                    f"oci:{tmp_path}/oci:1"], check=True, stdout=subprocess.DEVNULL)
    assert (tmp_path / "oci/index.json").exists()


def test_a_container_of_it_and_the_cache_keep_layers_alive(project: Project, box: Box) -> None:
    project.build("FROM BASE\nRUN echo 1 > /x\n")
    project.cli.ok("create", "--name", "holder", "made", "cat", "/x")
    project.cli.ok("rmi", "-f", "made")
    project.cli.ok("builder", "prune", "-af")
    assert project.cli.ok("start", "-a", "holder").text == "1"
    project.cli.ok("rm", "holder")
