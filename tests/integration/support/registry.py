"""Debian's own registry on loopback, plain, with passwords and with TLS, over one storage."""

from __future__ import annotations

import dataclasses
import http.client
import os
import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path

USER, PASSWORD = "tester", "correct horse"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclasses.dataclass
class Registry:
    storage: Path
    port: int
    process: subprocess.Popen[bytes]
    ca: Path | None = None

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    def blob_file(self, digest: str) -> Path:
        """Where the registry keeps a blob: tests damage it there."""
        name = digest.split(":")[1]
        return self.storage / "docker/registry/v2/blobs/sha256" / name[:2] / name / "data"

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start(work: Path, storage: Path, *, password: bool = False, tls: bool = False) -> Registry:
    """`work` gets the configuration and the log. Waits until the registry answers."""
    work.mkdir(parents=True, exist_ok=True)
    storage.mkdir(parents=True, exist_ok=True)
    for attempt in range(5):
        port = free_port()
        lines = ["version: 0.1", "log:", "  level: error", "  accesslog:", "    disabled: true",
                 "storage:", "  filesystem:", f"    rootdirectory: {storage}", "  delete:",
                 "    enabled: true", "http:", f"  addr: 127.0.0.1:{port}"]
        ca = None
        if tls:
            ca = _certificate(work)
            lines += ["  tls:", f"    certificate: {work}/server.crt",
                      f"    key: {work}/server.key"]
        if password:
            lines += ["auth:", "  htpasswd:", "    realm: tests", f"    path: {work}/htpasswd"]
            # -B: the registry reads no other hash than bcrypt.
            line = subprocess.run(["htpasswd", "-nbB", USER, PASSWORD], check=True,
                                  stdout=subprocess.PIPE).stdout
            (work / "htpasswd").write_bytes(line.strip() + b"\n")
        (work / "config.yml").write_text("\n".join(lines) + "\n")
        with open(work / "log", "ab") as log:
            process = subprocess.Popen(["docker-registry", "serve", str(work / "config.yml")],
                                       stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                       start_new_session=True)
        registry = Registry(storage, port, process, ca)
        if _answers(registry, tls=tls):
            return registry
        registry.stop()
        if attempt == 4:
            break
    raise RuntimeError(f"docker-registry did not start:\n{(work / 'log').read_text()[-2000:]}")


def _answers(registry: Registry, *, tls: bool) -> bool:
    end = time.monotonic() + 20
    while time.monotonic() < end and registry.process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", registry.port, timeout=5)
        if tls:
            connection = http.client.HTTPSConnection(
                "127.0.0.1", registry.port, timeout=5, context=ssl._create_unverified_context())
        try:
            connection.request("GET", "/v2/")
            if connection.getresponse().status in (200, 401):
                return True
        except OSError:
            time.sleep(0.03)
        finally:
            connection.close()
    return False


def _certificate(work: Path) -> Path:
    """A certificate authority of our own and a server certificate for localhost."""
    ca = work / "ca.crt"
    if ca.exists():
        return ca

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], check=True, stdin=subprocess.DEVNULL, cwd=work,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                       env={"PATH": os.environ["PATH"], "HOME": str(work)})

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-days", "3650",
            "-subj", "/CN=tests", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    (work / "server.ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n"
                                     "authorityKeyIdentifier=keyid\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key",
            "-CAcreateserial", "-out", "server.crt", "-days", "3650", "-extfile", "server.ext")
    return ca
