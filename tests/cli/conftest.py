"""A command run in this process: its exit code, what went to stdout and what to stderr."""

from __future__ import annotations

import pytest

from tokscale import cli


@pytest.fixture
def tokscale_run(capsys):
    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err

    return run
