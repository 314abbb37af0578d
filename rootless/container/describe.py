"""A container as docker's `inspect` shows it (Engine API, ContainerInspectResponse)."""

from __future__ import annotations

from rootless import jsontext
from rootless.cgroup.limits import THROTTLES
from rootless.container import cgroups
from rootless.container.store import Container
from rootless.files import read_bytes
from rootless.network import describe as networking
from rootless.network import endpoints

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NEVER = "0001-01-01T00:00:00Z"


def describe(container: Container) -> dict[str, Any]:
    data, state = container.data, container.state()
    config = container.config()
    proc, annotations = config["process"], config["annotations"]
    network = data["network"]
    try:
        wish = endpoints.wish(container.dir) if endpoints.joins(network) else None
    except FileNotFoundError:
        wish = None
    paused = cgroups.paused(state)
    return {
        "Id": container.id,
        "Created": data["created"],
        "Path": data["command"][0] if data["command"] else "",
        "Args": data["command"][1:],
        "State": {
            "Status": "paused" if paused else state.status,
            "Running": state.running,
            "Paused": paused,
            "Restarting": state.status == "restarting",
            "OOMKilled": state.oom,
            "Dead": False,
            "Pid": state.pid,
            "ExitCode": state.code,
            "Error": state.error,
            "StartedAt": state.started or NEVER,
            "FinishedAt": state.finished or NEVER,
            **_health(container),
        },
        "Image": data["image_id"],
        "ResolvConfPath": container.dir + "/resolv.conf",
        "HostnamePath": container.dir + "/hostname",
        "HostsPath": container.dir + "/hosts",
        "LogPath": container.log if data["log_driver"] != "none" else "",
        "Name": "/" + container.name,
        "RestartCount": state.restarts,
        "Driver": "overlay",
        "Platform": "linux",
        "HostConfig": {
            "Binds": [f"{m.get('volume') or m['source']}:{m['destination']}"
                      + (":ro" if "ro" in m["options"] else "")
                      for m in data["mounts"] if m["type"] in ("bind", "volume")
                      and not m.get("anonymous")],
            "NetworkMode": network,
            "NetworkRate": dict(zip(("Up", "Down"), (wish or {}).get("rate") or (0, 0))),
            "PidMode": data.get("pid", ""),
            "IpcMode": data.get("ipc") or "private",
            "PortBindings": networking.bindings(wish["ports"]) if wish is not None else {},
            **(networking.resolution(wish) if wish is not None else {}),
            "AutoRemove": data["rm"],
            "LogConfig": {"Type": data["log_driver"], "Config": _log_options(data)},
            "RestartPolicy": dict(zip(("Name", "MaximumRetryCount"),
                                      data.get("restart") or ("no", 0))),
            "CapAdd": data["cap_add"],
            "CapDrop": data["cap_drop"],
            "Privileged": data["privileged"],
            "ReadonlyRootfs": config["root"]["readonly"],
            "Init": bool(annotations["org.rootless.init"]),
            "UsernsMode": data["userns"],
            "Ulimits": [{"Name": r["type"][7:].lower(), "Soft": r["soft"], "Hard": r["hard"]}
                        for r in proc["rlimits"]],
            "MaskedPaths": config["linux"]["maskedPaths"],
            "ReadonlyPaths": config["linux"]["readonlyPaths"],
            "Sysctls": config["linux"]["sysctl"],
            **_limits(config),
        },
        "GraphDriver": {"Name": "overlay", "Data": {
            "LowerDir": ":".join(container.paths.layer(d) for d in reversed(data["layers"])),
            "UpperDir": container.dir + "/upper",
            "WorkDir": container.dir + "/work",
        }},
        "Mounts": [{
            "Type": m["type"],
            **({"Name": m["volume"], "Driver": "local"} if m["type"] == "volume" else {}),
            "Source": m["source"] if m["type"] in ("bind", "volume") else "",
            "Destination": m["destination"],
            "Mode": ",".join(o for o in m["options"] if o not in ("rbind", "bind")),
            "RW": "ro" not in m["options"],
            "Propagation": "rprivate" if m["type"] == "bind" else "",
        } for m in data["mounts"]],
        "Config": {
            "Hostname": config["hostname"],
            "Domainname": config.get("domainname", ""),
            "User": annotations["org.rootless.user"],
            "ExposedPorts": networking.exposed(data["ports"], wish),
            "Tty": data["tty"],
            "OpenStdin": data["stdin"],
            "Env": proc["env"],
            "Volumes": {m["destination"]: {} for m in data["mounts"] if m.get("anonymous")} or None,
            **({"Secrets": data["secrets"]} if data.get("secrets") else {}),
            "Cmd": data["command"][len(data["entrypoint"]):],
            "Entrypoint": data["entrypoint"] or None,
            "Image": data["image"],
            "WorkingDir": proc["cwd"],
            "Labels": data["labels"],
            "StopSignal": data["stop_signal"] or "SIGTERM",
            "StopTimeout": data["stop_timeout"],
            **_healthcheck(data),
        },
        "NetworkSettings": networking.settings(
            container.id, network, wish, endpoints.lease(container.dir) if state.running else None),
    }


# OCI's throttles by docker's name.
_THROTTLED = dict(zip(("BlkioDeviceReadBps", "BlkioDeviceWriteBps", "BlkioDeviceReadIOps",
                       "BlkioDeviceWriteIOps"), THROTTLES))


def _limits(config: dict[str, Any]) -> dict[str, Any]:
    """HostConfig's part of limits: 0 where there is none."""
    resources = config["linux"].get("resources", {})
    memory, cpu = resources.get("memory", {}), resources.get("cpu", {})
    io, annotations = resources.get("blockIO", {}), config["annotations"]
    limit = max(memory.get("limit") or 0, 0)
    nano = cpu.get("nanoCpus") or 0
    kinds = [n["type"] for n in config["linux"]["namespaces"]]
    return {
        "Memory": limit,
        # Without a word about it, docker's: as much swap as memory.
        "MemorySwap": memory["swap"] if memory.get("swap") is not None else 2 * limit,
        "MemoryReservation": memory.get("reservation") or 0,
        "NanoCpus": nano,
        "CpuShares": cpu.get("shares") or 0,
        "CpuQuota": 0 if nano else max(cpu.get("quota") or 0, 0),
        "CpuPeriod": 0 if nano else cpu.get("period") or 0,
        "CpusetCpus": cpu.get("cpus") or "",
        "CpusetMems": cpu.get("mems") or "",
        "PidsLimit": resources.get("pids", {}).get("limit"),
        "BlkioWeight": io.get("weight") or 0,
        **{name: [{"Path": d["path"], "Rate": d["rate"]} for d in io.get(key, ())]
           for name, key in _THROTTLED.items()},
        "OomScoreAdj": config["process"].get("oomScoreAdj") or 0,
        "OomKillDisable": False,
        "CgroupnsMode": "private" if "cgroup" in kinds else "host",
        "CgroupParent": annotations.get("org.rootless.cgroup-parent", ""),
        "CgroupConf": resources.get("unified", {}),
    }


def _log_options(data: dict[str, Any]) -> dict[str, str]:
    size, count = data.get("log_limits") or (0, 1)
    return {"max-size": str(size), "max-file": str(count)} if size else {}


def _health(container: Container) -> dict[str, Any]:
    if not container.data.get("health"):
        return {}
    try:
        found = jsontext.loads(read_bytes(container.dir + "/health.json"))
    except (OSError, ValueError):
        found = {"Status": "starting", "FailingStreak": 0, "Log": []}
    return {"Health": found}


def _healthcheck(data: dict[str, Any]) -> dict[str, Any]:
    made = data.get("health")
    if not made:
        return {}
    return {"Healthcheck": {
        "Test": made["words"],
        **{name: int(made[key] * 1e9) for name, key in (
            ("Interval", "interval"), ("Timeout", "timeout"), ("StartPeriod", "start_period"),
            ("StartInterval", "start_interval"))},
        "Retries": made["retries"],
    }}
