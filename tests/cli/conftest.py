"""One stack for all tests of the command line that leave it running."""

from collections.abc import Iterator

import pytest

from tests.process import ServerProcess


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Server and Envoy: use sites and streams of your own."""
    with ServerProcess(tmp_path_factory.mktemp("up"), "--http-port", "0", command="up") as running:
        yield running
