"""The proxy before the S3 server is the store tests' own."""

from tests.store.conftest import network, proxy

__all__ = ["network", "proxy"]
