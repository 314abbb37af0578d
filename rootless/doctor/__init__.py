"""What this machine allows: `gather` tries it and returns facts, `judge` turns facts into lines.

Whatever can be tried is tried, not guessed from versions: each attempt is made in a child process
of its own (`attempt`), so that namespaces, mounts and filters end with it and a file server that
does not answer costs seconds, not for ever. Nothing here prints.
"""
