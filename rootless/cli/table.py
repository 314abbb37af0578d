"""Every verb and the module that holds it.

A module is imported only when its verb is typed. It has `COMMANDS`, a dict from the full name
("run", "image ls") to its `Command`.
"""

from __future__ import annotations

_BUILD = "rootless.cli.build"
_IMAGES = "rootless.cli.images"
_INSPECT = "rootless.cli.inspect"
_LIFE = "rootless.cli.life"
_MANIFEST = "rootless.cli.manifest"
_SECRET = "rootless.cli.secret"
_VOLUME = "rootless.cli.volume"
_NETWORK = "rootless.cli.network"

# verb: (module, one line for the overview)
VERBS = {
    "run": ("rootless.cli.run", "Run a command in a new container"),
    "create": ("rootless.cli.run", "Make a container without starting it"),
    "start": ("rootless.cli.start", "Start stopped containers"),
    "attach": ("rootless.cli.start", "Connect the terminal to a running container"),
    "exec": ("rootless.cli.exec", "Run a command in a running container"),
    "ps": ("rootless.cli.ps", "List containers"),
    "logs": ("rootless.cli.logs", "Show what a container wrote"),
    "stop": (_LIFE, "Stop running containers"),
    "events": ("rootless.cli.events", "Show what happens, as it happens"),
    "rename": (_LIFE, "Give a container another name"),
    "top": ("rootless.cli.top", "Show the processes of a container"),
    "restart": ("rootless.cli.start", "Stop containers and start them again"),
    "kill": (_LIFE, "Send a signal to containers"),
    "wait": (_LIFE, "Wait for containers to end and print their exit codes"),
    "rm": (_LIFE, "Remove containers"),
    "port": (_NETWORK, "Show where a container's ports are published"),
    "pause": ("rootless.cli.pause", "Stop all processes of containers where they are"),
    "unpause": ("rootless.cli.pause", "Let paused containers go on"),
    "update": ("rootless.cli.update", "Change the limits of containers"),
    "stats": ("rootless.cli.stats", "Show what containers use"),
    "inspect": (_INSPECT, "Show all that is known of a container or image"),
    "build": (_BUILD, "Make an image from a Dockerfile"),
    "pull": (_IMAGES, "Download an image from a registry"),
    "push": ("rootless.cli.push", "Upload an image to a registry"),
    "search": ("rootless.cli.search", "Look for images in a registry"),
    "login": ("rootless.cli.login", "Log in to a registry"),
    "logout": ("rootless.cli.login", "Log out of a registry"),
    "images": (_IMAGES, "List images"),
    "rmi": (_IMAGES, "Remove images"),
    "history": ("rootless.cli.history", "Show the steps an image was made in"),
    "untag": ("rootless.cli.history", "Take names away from an image"),
    "tag": (_IMAGES, "Give an image another name"),
    "save": ("rootless.cli.save", "Write images into an archive"),
    "diff": ("rootless.cli.commit", "Show what a container has changed"),
    "commit": ("rootless.cli.commit", "Make an image from a container"),
    "cp": ("rootless.cli.cp", "Copy files between a container and the host"),
    "export": ("rootless.cli.save", "Write the files of a container into an archive"),
    "copy": ("rootless.cli.copy", "Copy an image from one place to another"),
    "load": ("rootless.cli.load", "Load images from an archive"),
    "import": ("rootless.cli.load", "Make an image from an archive of a filesystem"),
    "unshare": ("rootless.cli.unshare", "Run a command as root of your user namespace"),
    "doctor": ("rootless.cli.doctor", "Say what this machine allows and what would mend the rest"),
    "info": ("rootless.cli.info", "Show what there is, and the machine"),
    "version": ("rootless.cli.version", "Show the version"),
    "manifest": (_MANIFEST, "Manage lists of images for several platforms"),
    "network": (_NETWORK, "Manage networks"),
    "builder": (_BUILD, "Manage the cache of builds"),
    "secret": (_SECRET, "Manage secrets"),
    "system": ("rootless.cli.system", "Manage the store"),
    "volume": (_VOLUME, "Manage volumes"),
}

# Second words, and the top-level verb that means the same.
GROUPS = {
    "container": ("Manage containers", {
        "run": "run", "create": "create", "start": "start", "attach": "attach", "exec": "exec",
        "ls": "ps", "ps": "ps", "list": "ps", "logs": "logs", "stop": "stop", "kill": "kill",
        "wait": "wait", "rm": "rm", "export": "export",
        "cp": "cp", "diff": "diff", "commit": "commit", "pause": "pause", "unpause": "unpause",
        "update": "update", "stats": "stats",
        "restart": "restart", "rename": "rename", "top": "top",
    }),
    "image": ("Manage images", {
        "build": "build", "pull": "pull", "push": "push", "ls": "images", "list": "images",
        "rm": "rmi", "tag": "tag", "load": "load", "save": "save", "import": "import",
        "history": "history", "untag": "untag", "search": "search", "remove": "rmi",
        "umount": "image unmount",
    }),
    "builder": ("Manage the cache of builds", {"build": "build"}),
    "manifest": ("Manage lists of images for several platforms", {}),
    "network": ("Manage networks", {"list": "network ls", "remove": "network rm"}),
    "secret": ("Manage secrets", {"list": "secret ls", "remove": "secret rm"}),
    "system": ("Manage the store", {"info": "info"}),
    "volume": ("Manage volumes", {"list": "volume ls", "remove": "volume rm"}),
}

# Groups whose second words are commands of their own.
SUBCOMMANDS = {
    "container": {
        "prune": ("rootless.cli.prune", "Remove containers that do not run"),
        "inspect": (_INSPECT, "Show all that is known of a container"),
    },
    "image": {
        "inspect": (_INSPECT, "Show all that is known of an image"),
        "exists": (_INSPECT, "Say by the exit code if there is such an image"),
        "tree": ("rootless.cli.history", "Show the layers of images and which of them they share"),
        "diff": ("rootless.cli.history", "Show which files differ between two images"),
        "sign": ("rootless.cli.sign", "Sign images in a registry"),
        "flatten": ("rootless.cli.save", "Write an image into one squashfs file"),
        "share": ("rootless.cli.save", "Write images into a directory for other users"),
        "mount": ("rootless.cli.unshare", "Mount images, within rootless unshare"),
        "unmount": ("rootless.cli.unshare", "Unmount images"),
        "prune": ("rootless.cli.prune", "Remove images that nobody needs"),
    },
    "manifest": {
        "create": (_MANIFEST, "Begin a list"),
        "add": (_MANIFEST, "Add images to a list"),
        "annotate": (_MANIFEST, "Say what an image of a list is made for"),
        "remove": (_MANIFEST, "Take images out of a list"),
        "inspect": (_MANIFEST, "Show a list, or a manifest in a registry"),
        "ls": (_MANIFEST, "Show the names of all lists"),
        "exists": (_MANIFEST, "Say by the exit code if there is such a list"),
        "push": (_MANIFEST, "Upload a list and its images"),
        "rm": (_MANIFEST, "Forget lists"),
    },
    "builder": {
        "prune": (_BUILD, "Remove the cache of builds"),
    },
    "network": {
        "create": (_NETWORK, "Make a network"),
        "ls": (_NETWORK, "List networks"),
        "inspect": (_NETWORK, "Show all that is known of networks"),
        "rm": (_NETWORK, "Remove networks"),
        "prune": (_NETWORK, "Remove networks that nobody needs"),
        "update": (_NETWORK, "Change the rules of what may be reached outside"),
        "log": (_NETWORK, "Show what was dialled out of a network"),
        "connect": (_NETWORK, "Connect a container to a network"),
        "disconnect": (_NETWORK, "Take a container off a network"),
    },
    "secret": {
        "create": (_SECRET, "Keep a secret"),
        "ls": (_SECRET, "List secrets"),
        "inspect": (_SECRET, "Show what is known of secrets"),
        "rm": (_SECRET, "Remove secrets"),
        "exists": (_SECRET, "Say by the exit code if there is such a secret"),
    },
    "volume": {
        "create": (_VOLUME, "Make a volume"),
        "ls": (_VOLUME, "List volumes"),
        "inspect": (_VOLUME, "Show all that is known of volumes"),
        "rm": (_VOLUME, "Remove volumes"),
        "exists": (_VOLUME, "Say by the exit code if there is such a volume"),
        "prune": (_VOLUME, "Remove volumes that nobody needs"),
    },
    "system": {
        "prune": ("rootless.cli.prune", "Remove what nobody needs"),
        "reset": ("rootless.cli.system", "Remove everything the engine has stored"),
        "check": ("rootless.cli.check", "Look whether the store is whole, and repair it"),
        "df": ("rootless.cli.check", "Show what images and containers take on the disk"),
        "stop": ("rootless.cli.system", "End the helper processes of namespaces and networks"),
    },
}

# These start a container: its monitor is forked before anything else is imported.
STARTERS = frozenset(("run", "start", "restart"))
