"""The HTTP server: an aiohttp application over the engine. ``server.run`` serves; ``keys`` are made by the command line."""
