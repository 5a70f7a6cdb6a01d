"""What the handle of a run is made of: each module has what the one below it has, and more. `run.Run` is the whole."""
