"""The REST face: Envoy before the gRPC server, and the OpenAPI document of what it serves."""
