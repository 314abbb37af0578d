#!/bin/sh
# Installs rootless: for yourself as a normal user, for everyone as root. See --help.
#
# Every run builds a complete new environment in a directory of its own, tries it, and only then
# renames the launcher onto it: whatever interrupts a run, the installation before it still works.
# The environment before is kept until the next run, as monitors of running containers read it.
set -eu

usage() {
    cat <<'HELP'
Usage: ./install.sh [OPTIONS]

As a normal user: installs for you, below ~/.local, and asks nothing of root.
As root: installs the distribution's packages and rootless for all users, below /usr/local.
Run it again to upgrade.

  --prefix DIR       install below DIR: DIR/bin/rootless, DIR/lib/rootless
  --find-links DIR   take Python packages from DIR only, without network
                     (made elsewhere: pip wheel --use-pep517 --wheel-dir DIR .)
  --python PATH      use this Python (3.9 or newer)
  --user NAME        as root: also give NAME the subordinate ids that containers use
  --uninstall        remove what this script installed; images and containers stay
  --help             show this
HELP
}

die() {         # what failed: the object: why, what to type
    echo "install.sh: $1" >&2
    [ -z "${2-}" ] || echo "  hint: $2" >&2
    exit "${3:-1}"
}

say() { printf '%s\n' "$*"; }

# ---- what was asked for ------------------------------------------------------------------------

prefix='' wheels='' python='' user='' uninstall=''
while [ $# -gt 0 ]; do
    word=$1
    shift
    case $word in
        --prefix|--find-links|--python|--user)
            [ $# -gt 0 ] || die "option needs an argument: $word" "./install.sh --help" 2
            value=$1
            shift ;;
        --prefix=*|--find-links=*|--python=*|--user=*)
            value=${word#*=}
            word=${word%%=*} ;;
        --uninstall) uninstall=yes; continue ;;
        --help|-h) usage; exit 0 ;;
        -*) die "unknown option: $word" "./install.sh --help" 2 ;;
        *) die "unexpected argument: $word" "./install.sh --help" 2 ;;
    esac
    [ -n "$value" ] || die "option needs an argument: $word" "./install.sh --help" 2
    case $word in
        --prefix) prefix=$value ;;
        --find-links) wheels=$value ;;
        --python) python=$value ;;
        --user) user=$value ;;
    esac
done

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
uid=$(id -u)
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
# Settings of pip and Python that would send packages elsewhere than into our directory.
unset PIP_TARGET PIP_PREFIX PIP_ROOT PIP_PYTHON PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE
export PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

if [ "$uid" = 0 ]; then
    umask 022
elif [ -n "$user" ]; then
    die "cannot give $user subordinate ids: only root can" "sudo ./install.sh --user $user"
fi
if [ -n "$user" ] && ! id "$user" >/dev/null 2>&1; then
    die "cannot give $user subordinate ids: no such user"
fi
if [ -n "$wheels" ]; then
    [ -d "$wheels" ] || die "cannot read the wheels: $wheels: not a directory"
    wheels=$(CDPATH='' cd -- "$wheels" && pwd -P)
fi
if [ -z "${HOME-}" ]; then
    HOME=$(getent passwd "$uid" | cut -d: -f6)
    [ -n "$HOME" ] || die "cannot find a home directory: HOME is not set" "export HOME=DIRECTORY"
    export HOME
fi

# `base` holds environments, `data` the files that shells look for. A user's base is also the
# place of the store, which knows the names `venv` and those with a leading dot as ours.
if [ -z "$prefix" ] && [ "$uid" != 0 ]; then
    case ${XDG_DATA_HOME-} in
        /*) data=$XDG_DATA_HOME ;;
        *) data=$HOME/.local/share ;;
    esac
    base=$data/rootless bin=$HOME/.local/bin
else
    prefix=${prefix:-/usr/local}
    case $prefix in
        /*) ;;
        *) prefix=$PWD/$prefix ;;
    esac
    base=$prefix/lib/rootless bin=$prefix/bin data=$prefix/share
fi
launcher=$bin/rootless
mark='made by install.sh of rootless'
bash_file=$data/bash-completion/completions/rootless
zsh_file=$data/zsh/site-functions/_rootless
fish_file=$data/fish/vendor_completions.d/rootless.fish
slirp_file=$bin/rootless-slirp

# One run at a time: the lock is on the open file 9, which this shell keeps until it ends.
lock() {        # the Python that asks for it
    while :; do
        make_dir "$base"
        exec 9>>"$base/.lock"
        # A run that uninstalled while we waited took the file away: then once more. Filesystems
        # without locks, which are few, have to do without.
        "$1" -I -S -c 'import fcntl, os, sys
try: fcntl.flock(9, fcntl.LOCK_EX)
except OSError: sys.exit(0)
try: sys.exit(0 if os.path.samestat(os.fstat(9), os.stat(sys.argv[1])) else 3)
except FileNotFoundError: sys.exit(3)
' "$base/.lock" || [ $? != 3 ] || continue
        return 0
    done
}

make_dir() {    # mkdir -p that remembers in $made what it had to make, for --uninstall
    if [ ! -d "$1" ]; then
        make_dir "$(dirname -- "$1")"
        mkdir -- "$1" 2>/dev/null || [ -d "$1" ] || die "cannot make the directory $1"
        made="$made$1
"
    fi
}
made=''

ours() { [ -f "$1" ] && grep -q "$mark" "$1"; }

# ---- uninstall ---------------------------------------------------------------------------------

if [ -n "$uninstall" ]; then
    found=
    if [ -w "$base" ]; then
        lock "$(command -v python3 || echo /usr/bin/python3)"
    fi
    for file in "$launcher" "$slirp_file" "$bash_file" "$zsh_file" "$fish_file"; do
        if ours "$file"; then
            rm -f -- "$file"
            found=yes
        elif [ -e "$file" ]; then
            say "left alone, as this script did not make it: $file"
        fi
    done
    [ ! -e "$base/venv/made" ] || made=$(cat "$base/venv/made")
    for tree in "$base/venv" "$base"/.venv-*; do
        if [ -e "$tree" ] || [ -L "$tree" ]; then
            rm -rf -- "$tree"
            found=yes
        fi
    done
    rm -f -- "$base/.lock"
    # Directories that the first run had to make, the deepest first, if nothing else came in.
    printf '%s\n' "$made" | sort -r | while IFS= read -r dir; do
        [ -z "$dir" ] || rmdir -- "$dir" 2>/dev/null || true
    done
    if [ -z "$found" ]; then
        say "nothing to uninstall: $launcher is not installed"
    else
        say "uninstalled: $launcher"
    fi
    store=${ROOTLESS_ROOT:-$base}
    [ "$uid" != 0 ] || store=${ROOTLESS_ROOT:-/var/lib/rootless}
    if [ -e "$store/rootless-store" ]; then
        say "Images and containers are still in $store. To remove them as well:"
        say "  cd '$here' && python3 -m rootless system reset"
    fi
    [ "$uid" != 0 ] || say "Packages of the distribution and subordinate ids were left as they are."
    exit 0
fi

# ---- packages of the distribution, as root -----------------------------------------------------

find_python() {         # sets `python` and `version`; false when there is none
    # Accepts a Python that is new enough and complete, and names the real program: a virtual
    # environment or a shim may be gone tomorrow. For all users it must be one they can reach.
    check='
import os, sys
if sys.version_info < (3, 9): sys.exit("older than 3.9")
try: import ctypes, json, ssl, zlib
except ImportError as e: sys.exit(str(e))
path = getattr(sys, "_base_executable", "") or sys.executable
if sys.argv[1] == "0":
    for place in (path, os.__file__):
        place = os.path.realpath(place)
        while place != "/":
            if not os.stat(place).st_mode & 0o005: sys.exit(f"other users cannot reach {place}")
            place = os.path.dirname(place)
print("%s\n%d.%d" % (path, *sys.version_info[:2]))
'
    for candidate in "$@"; do
        found=$(command -v -- "$candidate") || continue
        if answer=$("$found" -I -c "$check" "$uid" 2>&1); then
            python=$(printf '%s\n' "$answer" | sed -n 1p)
            version=$(printf '%s\n' "$answer" | sed -n 2p)
            return 0
        fi
        refused="$found: $(printf '%s\n' "$answer" | tail -n 1)"
    done
    return 1
}

choose_python() {
    if [ -n "$python" ]; then
        find_python "$python"
    else
        find_python /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11 \
            python3.10 python3.9
    fi
}

has_pip() { "$1" -m pip --version >/dev/null 2>&1 || "$1" -c 'import ensurepip' 2>/dev/null; }

if command -v apt-get >/dev/null; then
    install='apt-get install --yes'
    packages='uidmap fuse3 python3 python3-venv'
elif command -v dnf >/dev/null; then
    install='dnf install --assumeyes'
    packages='shadow-utils fuse3 python3 python3-pip'
else
    install=''
    packages='newuidmap, fusermount3, Python 3.9 or newer with pip'
fi

refused=''
if [ -n "$python" ] && ! choose_python; then
    die "cannot use the Python ${refused:-$python: no such program}" \
        "name another of 3.9 or newer, or leave out --python"
fi
if [ "$uid" = 0 ]; then
    if ! command -v newuidmap >/dev/null || ! command -v fusermount3 >/dev/null ||
            ! choose_python || ! has_pip "$python"; then
        if [ -z "$install" ]; then
            say "This distribution's packages are not known here. Wanted are: $packages"
        else
            say "Installing $packages"
            # A fresh container has no package lists yet.
            case $install in apt-get*) apt-get update -qq >/dev/null 2>&1 || true ;; esac
            # shellcheck disable=SC2086  # lists of words
            DEBIAN_FRONTEND=noninteractive $install $packages </dev/null >/dev/null ||
                say "Some packages could not be installed; rootless doctor tells what is missing."
        fi
    fi
fi

if ! choose_python; then
    die "no usable Python 3.9 or newer: ${refused:-none found}" \
        "as root: ${install:-install} python3; or name one: ./install.sh --python PATH"
fi

enough_space() {        # the environment, and as much again where pip prepares it
    left=$(df -Pk -- "$1" | awk 'NR == 2 { print $4 }')
    [ "$left" -ge 65536 ] || die "cannot install in $1: only $((left / 1024)) MB are free" "$2"
}

# ---- the new environment -----------------------------------------------------------------------

tmp=$(mktemp -d) || die "cannot make a temporary directory" "export TMPDIR=DIRECTORY"
new=''
finish() {
    rm -rf -- "$tmp"
    [ -z "$new" ] || rm -rf -- "$new"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

if [ ! -d "$base" ]; then
    make_dir "$base"
    chmod 0711 "$base"          # as the store, whose files belong to several ids
    [ -z "$prefix" ] || chmod 0755 "$base"
fi
make_dir "$bin"
if [ -e "$launcher" ] && ! ours "$launcher"; then
    die "cannot install $launcher: another program of that name is there" \
        "move it away, or ./install.sh --prefix DIR"
fi
for dir in "$base" "$bin"; do
    [ -w "$dir" ] || die "cannot write in $dir" "./install.sh --prefix DIR"
done
lock "$python"

enough_space "$base" "./install.sh --prefix DIR"
enough_space "$tmp" "export TMPDIR=DIRECTORY"
say "Installing rootless with Python $version ($python)"
name=.venv-$$-$(date +%s)
new=$base/$name
# The launcher needs no venv, only the packages; as one it can also be used by hand.
"$python" -I -m venv --without-pip "$new" >/dev/null 2>&1 || mkdir -p -- "$new" ||
    die "cannot make the directory $new"
site=$new/lib/python$version/site-packages
mkdir -p -- "$site"

# pip from the first place that has one: the interpreter, what ensurepip carries, the wheels.
pip_wheel=''
for file in "$wheels"/pip-*.whl; do
    [ ! -e "$file" ] || pip_wheel=$file
done
if "$python" -m pip --version >/dev/null 2>&1; then
    pip() { (cd "$tmp" && "$python" -m pip "$@"); }
elif "$python" -I -m venv "$tmp/pip" >/dev/null 2>&1; then
    pip() { (cd "$tmp" && "$tmp/pip/bin/python" -m pip "$@"); }
elif [ -n "$pip_wheel" ]; then
    pip() { (cd "$tmp" && PYTHONPATH=$pip_wheel "$python" -m pip "$@"); }
else
    case $install in apt-get*) pip_package=python3-venv ;; *) pip_package=python3-pip ;; esac
    die "cannot install Python packages: $python has no pip" \
        "as root: ${install:-install} $pip_package; or put a pip wheel in --find-links DIR"
fi

get() {
    if [ -n "$wheels" ]; then
        set -- --no-index --find-links "$wheels" "$@"
    fi
    pip install --quiet --prefer-binary --target "$site" "$@" >"$tmp/pip.log" 2>&1
}

# The first line: what is needed in any case. Then one a line: what only some uses need.
"$python" -I - "$here/pyproject.toml" >"$tmp/wanted" <<'PYTHON'
import ast, re, sys
text = open(sys.argv[1], encoding="utf-8").read()
listed = ast.literal_eval("[" + text.split("\ndependencies = [", 1)[1].split("\n]", 1)[0] + "]")
optional = [d for d in listed if re.match("[a-z0-9]*", d).group() in ("isal", "zstandard", "fusepy")]
print("\t".join(d for d in listed if d not in optional), *optional, sep="\n")
PYTHON

needed=$(sed -n 1p "$tmp/wanted")
everything=$(tr '\n' '\t' <"$tmp/wanted")
split() {       # "a<TAB>b c" to the words of a call: get 'a' 'b c'
    old_ifs=$IFS
    IFS='	'
    # shellcheck disable=SC2086
    set -f -- $1
    set +f
    IFS=$old_ifs
    get "$@"
}
if ! split "$everything"; then
    # A platform for which a compiled one is missing still gets all the rest.
    rm -rf -- "$site"
    mkdir -p -- "$site"
    if ! split "$needed"; then
        why=$(grep '^ERROR' "$tmp/pip.log" | tail -n 1)
        why=$(printf '%s\n' "${why:-$(tail -n 1 "$tmp/pip.log")}" | cut -c1-200)
        die "cannot install the Python packages: pip says: $why" \
            "without network: ./install.sh --find-links DIR (see --help)"
    fi
    sed 1d "$tmp/wanted" >"$tmp/optional"
    while IFS= read -r package; do
        get "$package" </dev/null && continue
        case $package in
            isal*) say "Left out: isal, so gzip layers are read by zlib, more slowly." ;;
            zstandard*) say "Left out: zstandard, so layers packed with zstd cannot be read." ;;
            *) say "Left out: ${package%%[>=<;]*}." ;;
        esac
    done <"$tmp/optional"
fi
rm -rf -- "${site:?}/bin"
for package in rootless slirp fuse_overlay; do
    cp -R -- "$here/$package" "$site/" || die "cannot copy $here/$package to $site"
done
find "$site/rootless" "$site/slirp" "$site/fuse_overlay" -name __pycache__ -prune \
    -exec rm -rf {} +
"$python" -I -m compileall -q "$site/rootless" "$site/slirp" "$site/fuse_overlay" >/dev/null
cp -- "$here/LICENSE" "$new/"

# -I -S: no search for site packages, user packages or settings, which costs a fifth of the start
# of a command. A `#!` line takes one argument, 127 bytes and no spaces; else the shell does it.
start=$new/bin/rootless       # not in $tmp, from where programs may be forbidden to run
mkdir -p -- "$new/bin"
write_start() {         # package, program
    "$python" -I - "$python" "$site" "$mark" "$@" >"$new/bin/$2" <<'PYTHON'
import os, shlex, sys
python, site, mark, package, program = sys.argv[1:]
mine = sys.version_info[:2]
code = f"""import sys
sys.path.insert(0, {site!r})
try:
    if sys.version_info[:2] != {mine}:
        raise ImportError("it was made for Python %d.%d" % {mine})
    from {package}.__main__ import main
except ImportError as e:
    sys.stderr.write(f"{program}: the installation is damaged: {{e}}\\n  hint: run install.sh again\\n")
    sys.exit(125)
main()
"""
line = f"#!{python} -IS"
if len(os.fsencode(line)) <= 127 and len(line.split()) == 2:
    text = f"{line}\n# {mark}\n{code}"
else:
    text = f'#!/bin/sh\n# {mark}\nexec {shlex.quote(python)} -I -S -c {shlex.quote(code)} "$@"\n'
sys.stdout.buffer.write(os.fsencode(text))
PYTHON
    chmod 0755 "$new/bin/$2"
}
write_start rootless rootless
write_start slirp rootless-slirp
"$start" version >"$tmp/version" || die "the new installation does not work" \
    "the old one, if any, was left as it was"

# ---- the swap ----------------------------------------------------------------------------------

put() {         # file, destination: appears whole or not at all
    make_dir "$(dirname -- "$2")"
    if ! cp -- "$1" "$2.new.$$" || ! mv -f -- "$2.new.$$" "$2"; then
        rm -f -- "$2.new.$$"
        die "cannot write $2"
    fi
}

for shell in bash zsh fish; do
    # click asks bash for its version and complains on stderr where there is none.
    { _ROOTLESS_COMPLETE=${shell}_source "$start" && echo "# $mark"; } \
        >"$tmp/$shell" 2>/dev/null || die "cannot make the completion for $shell"
done
put "$tmp/bash" "$bash_file"
put "$tmp/zsh" "$zsh_file"
put "$tmp/fish" "$fish_file"
if [ ! -e "$slirp_file" ] || ours "$slirp_file"; then
    put "$new/bin/rootless-slirp" "$slirp_file"
else
    say "left alone, as this script did not make it: $slirp_file"
fi

before=''
[ ! -e "$base/venv/made" ] || before=$(cat "$base/venv/made")
printf '%s\n%s' "$before" "$made" | sort -u >"$new/made"
put "$start" "$launcher"
current=$new
new=''          # finished: to stay
old=$(readlink -- "$base/venv" || true)
ln -s -- "$name" "$base/.venv-link-$$"
# mv would follow a link to a directory; rename(2) does not.
"$python" -I -c 'import os, sys; os.rename(*sys.argv[1:])' "$base/.venv-link-$$" "$base/venv"
for tree in "$base"/.venv-*; do
    # What is neither was left by a run that was killed, or came before the last.
    [ "$tree" = "$current" ] || [ "${tree##*/}" = "$old" ] || rm -rf -- "$tree"
done
exec 9>&-

# ---- what can be done now ----------------------------------------------------------------------

if [ -n "$user" ]; then
    # The doctor knows which ids are free.
    "$python" -I -S - "$site" "$user" <<'PYTHON' || die "cannot give $user subordinate ids"
import sys
sys.path.insert(0, sys.argv[1])
from rootless.doctor import ranges
from rootless.errors import RootlessError
try: print(sys.argv[2], ranges.grant(sys.argv[2]))
except RootlessError as e: sys.exit(f"install.sh: {e}")
PYTHON
fi

say "$(cat "$tmp/version") is installed: $launcher"
say ""
able=yes
if [ -n "$user" ] && [ "$(id -u "$user")" != 0 ]; then
    su "$user" -s /bin/sh -c "cd / && unset XDG_RUNTIME_DIR && exec \"\$0\" doctor" \
        "$launcher" || able=
else
    "$launcher" doctor || able=
fi
say ""
[ -n "$able" ] || say "The lines above tell what to mend first. Then:"

on_path=
case :$PATH: in *:"$bin":*) on_path=yes ;; esac
if [ -z "$on_path" ]; then
    say "Add $bin to your PATH, then open a new shell:"
    case ${SHELL##*/} in
        fish) say "  fish -c 'fish_add_path $bin'" ;;
        zsh) say "  echo 'export PATH=\"$bin:\$PATH\"' >> ~/.zshrc" ;;
        *) say "  echo 'export PATH=\"$bin:\$PATH\"' >> ~/.bashrc" ;;
    esac
elif [ "$(command -v rootless)" != "$launcher" ]; then
    say "Another rootless comes first in your PATH: $(command -v rootless)"
fi
case ${SHELL-} in
    */zsh) [ "$uid" = 0 ] || say "Completion in zsh: fpath+=('${zsh_file%/*}') before compinit" ;;
esac
say "Try:  rootless run --rm host cat /etc/os-release"
