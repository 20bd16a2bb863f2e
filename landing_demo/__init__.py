"""A landing in simulation: what a camera sees steers a vehicle by MAVLink's LANDING_TARGET alone."""
