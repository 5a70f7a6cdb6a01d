"""Pictures of what the package does, drawn of real runs."""
