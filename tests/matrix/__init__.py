"""Run suites where users run the library: on other servers, brokers and releases, each in an environment of its own.

    python -m tests.matrix                          every environment, one after the other, and the table
    python -m tests.matrix rabbitmq redis-6.2       these
    python -m tests.matrix --corners                the oldest and the newest, in a minute
    python -m tests.matrix --list                   their names
    python -m tests.matrix --write [NAME …]         and put what came of them into the table in tests/README.md

nox makes the environments (`nox -f tests/noxfile.py -l` lists its sessions), in a folder of the user's cache, where
they stay. Servers come from Debian's and Python's packages; see `tests/support/programs.py`.
"""
