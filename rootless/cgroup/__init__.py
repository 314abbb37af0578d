"""Limits that the kernel holds: a cgroup (version 2) for each container, without root.

Actors. A command decides where the cgroup will be (`where`) and turns what is wanted into file
contents (`limits`), both without touching anything. The container's launcher makes it (`make`)
before it clones the first process, so that no process of the container is ever outside. The
monitor finds its path in /proc, reads at the end whether the kernel killed for want of memory, and
removes it (`tree`). Commands read, freeze and change it by its path (`usage`, `tree`, `unit`).

Two ways, one shape:

    systemd   rootless.slice/rootless-ID.scope/monitor       the monitor
                                               container     the container; limits are here
    direct    PARENT/rootless-leaf                           all that stood in PARENT
              PARENT/rootless-ID                             the container; limits are here

- systemd: a transient scope of the user's manager, with Delegate=, is made over its own socket
  (`dbus`, `unit`). The monitor is in the scope, as it must outlive the session that started it
  and read the end of the story before systemd removes the cgroup; it is not in the container's
  part, as the memory limit would count it and the OOM killer might choose it. So limits are set
  in `container`, and only what counts among neighbours (weights, protected memory) on the scope.
- direct: a cgroup that is ours to divide, as batch systems give one for a job. A cgroup that
  hands out controllers may have no processes of its own (cgroups(7), "no internal processes"), so
  what stands in it goes to a leaf first.

Invariants.
- A limit that was asked for holds or the container does not start.
- A container cannot raise its own limits: the cgroup is the root of its cgroup namespace, and is
  writable inside only where the hierarchy is mounted with `nsdelegate`, with which the kernel
  refuses writes to the limits of a namespace's root.
- A cgroup is removed when the container ends; what a killed monitor leaves is removed by the
  next start beside it or by `rm`. Making is done under a shared lock of PARENT, removing what
  seems abandoned under an exclusive one.
"""
