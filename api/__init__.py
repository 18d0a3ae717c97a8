"""The VM Migration v1 contract over gRPC and REST: translate, call a service, translate errors."""
