"""The ROS side: parameters, life cycle, topics and messages around the ROS-free detector."""
