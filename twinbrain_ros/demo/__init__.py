"""The whole loop on one machine: nodes as processes, and a client that runs episodes through topics."""
