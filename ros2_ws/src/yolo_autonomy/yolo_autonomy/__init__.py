"""From detections to autopilots, planners and ground stations: one module of arithmetic and one node each.

The modules whose names end in ``_node`` need ROS; the others do not.
"""
