"""What the tests stand on: a real server, real workers, waiting without sleeping, looking at what is left."""
