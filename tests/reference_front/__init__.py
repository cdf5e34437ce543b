"""The data plane over grpcio.aio: what the native front is compared with. Plain, neither fast nor bounded."""
