"""What the node knows of its own state, what that means, and the words for it; no ROS."""
