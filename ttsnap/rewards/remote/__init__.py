"""A reward in another process or on another machine: the protocol, its client and its server."""
