"""Where the core meets the world: files, wire formats, configuration, the simulated venue, reports."""
