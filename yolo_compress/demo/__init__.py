"""The whole way on one command: compress a detector, fly it over DDS, and show what came out."""
