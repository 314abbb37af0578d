#!/bin/sh
# Runs as root in the virtual machine, from the second drive. Logs in as each user, so that the
# cases stand where a person's shell stands: in a session's scope, with a user manager beside it.
set -u

chmod 666 /dev/ttyS1
stty -F /dev/ttyS1 raw

cd /payload/checkout || exit
for user in user root; do
    [ -s "/payload/cases-$user" ] || continue
    # A case that hangs must leave time for the other user's.
    # PYTHONDONTWRITEBYTECODE: the drive is read-only.
    # shellcheck disable=SC2016
    timeout --kill-after=5 150 runuser --login "$user" --command '
        cd /payload/checkout
        export PYTHONDONTWRITEBYTECODE=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 LANG=C.UTF-8
        export RESULTS=/dev/ttyS1
        xargs --delimiter="\n" --arg-file="/payload/cases-$USER" /payload/venv/bin/python -m pytest \
            -c pyproject.toml --confcutdir=tests/vm/inside -p no:cacheprovider -p tests.vm.send \
            -o faulthandler_timeout=60 --color=no'
done
