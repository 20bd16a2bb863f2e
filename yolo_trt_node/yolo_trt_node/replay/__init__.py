"""Flights from bags and into bags, also on machines without rosbag2."""
