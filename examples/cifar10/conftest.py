"""The subjects of the gate: both networks, one set of images."""

import pytest
import subjects


@pytest.fixture(scope="session", params=subjects.NETWORKS)
def reference_model(request):
    return subjects.network(request.param)


@pytest.fixture(scope="session")
def dataset():
    return subjects.test_images()
