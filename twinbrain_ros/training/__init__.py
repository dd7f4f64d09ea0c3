"""From a simulator or datasets to checkpoints."""
