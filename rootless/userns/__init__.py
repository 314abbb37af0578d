"""The user namespace in which all containers of one user live."""
