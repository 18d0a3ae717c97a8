"""One function per RPC: (services, request message) -> response message. Both front ends call the same functions."""
