"""The HTTP server, an aiohttp application over the engine: ``server.run`` serves, ``keys`` are what
the command line makes."""
